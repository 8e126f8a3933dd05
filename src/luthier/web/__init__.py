"""The web page, a client of the public API (to come)."""
