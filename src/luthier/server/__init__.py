"""The OpenAI wire (to come)."""
