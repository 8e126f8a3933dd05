"""What every request passes before an endpoint sees it. Plain ASGI, one question a file; `app.py` says in which order."""
