"""Rows of the database as the wire shows them: one file a resource, pure functions."""
