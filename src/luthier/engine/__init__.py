"""Token trees and the one loop."""
