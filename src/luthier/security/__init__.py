"""Keys, roles, encryption and personal data. For now: the patterns that recognise secrets and personal data in rows."""
