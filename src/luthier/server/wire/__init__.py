"""The words of the wire as pydantic types, one file for each resource. Requests are checked by them, answers are made of them."""
