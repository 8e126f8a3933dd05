"""The OpenAPI document of this service."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI


def of(app: FastAPI) -> dict[str, Any]:
    """FastAPI's, without the 422 that this wire never says."""
    content = app.openapi()
    for operation in _operations(content):
        operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        content["components"]["schemas"].pop(name, None)
    return content


def _operations(content: dict[str, Any]) -> Iterable[dict[str, Any]]:
    return (operation for path in content["paths"].values() for operation in path.values())
