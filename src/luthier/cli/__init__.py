"""The outermost floor: verbs."""
