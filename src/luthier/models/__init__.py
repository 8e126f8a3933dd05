"""Base models: find, load, describe. torch begins here."""
