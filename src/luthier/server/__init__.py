"""The service: the OpenAI wire over HTTP, and what runs around it. `app.py` puts it together, `run.py` listens.

gates/      what every request passes      endpoints/  one file a resource, found by name
wire/       requests and answers as types  shown/      rows of the database as the wire shows them
"""
