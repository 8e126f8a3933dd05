"""OpenAI's specification as a judge of answers, and the script that compares it with ours."""

from __future__ import annotations

import base64
import copy
import importlib.util
import json
import os
import re
import sys
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import jsonschema

SCRIPT = Path(__file__).parents[2] / "scripts" / "conformance.py"


def script() -> ModuleType:
    """`scripts/conformance.py`, which is no package."""
    spec = importlib.util.spec_from_file_location("conformance", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["conformance"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


class Specification:
    """Says what is wrong with an answer."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.validators: dict[tuple[str, str], Any] = {}

    @cached_property
    def document(self) -> Any:
        """The specification, its older words of JSON Schema put into today's."""
        found = script().their_document(self.file)
        _modern(found.content["components"]["schemas"])
        return found

    def judge(self, answer: httpx2.Response) -> None:
        """Hold an answer of JSON against its schema; for the hooks of a client.

        Raises:
            AssertionError: it does not fit.
        """
        kind = answer.headers.get("content-type", "")
        if answer.status_code >= 300 or not kind.startswith("application/json"):
            return
        key = self._key(answer.request.method, answer.request.url.path)
        if key is not None:
            answer.read()
            self.check(key, json.loads(answer.content))

    def check(self, key: tuple[str, str], content: Any) -> None:
        """Hold the content of an answer against the schema of an operation."""
        validator = self.validators.get(key)
        if validator is None:
            schema = self.document.answer(self.document.operations[key])
            whole = {**copy.deepcopy(schema), "components": self.document.content["components"]}
            validator = self.validators[key] = jsonschema.Draft202012Validator(whole)
        wrong = [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(_without_exceptions(content))]
        assert not wrong, f"{key} does not fit the specification: {wrong[:3]}"

    def check_chunk(self, content: Any) -> None:
        """Hold a frame of a chat's stream against its schema."""
        schema = {"$ref": "#/components/schemas/CreateChatCompletionStreamResponse", "components": self.document.content["components"]}
        jsonschema.Draft202012Validator(schema).validate(content)

    def _key(self, method: str, path: str) -> tuple[str, str] | None:
        path = path.removeprefix("/v1")
        for key, operation in self.document.operations.items():
            pattern = re.escape(key[1]).replace(r"\{\}", "[^/]+")
            if key[0] == method and re.fullmatch(pattern, path) and self.document.answer(operation):
                found: tuple[str, str] = key
                return found
        return None


def _modern(schema: Any) -> None:
    """``nullable`` and ``exclusiveMinimum: true`` are words of JSON Schema's draft 4, in a document that says it is 2020-12."""
    if isinstance(schema, list):
        for inner in schema:
            _modern(inner)
    if not isinstance(schema, dict):
        return
    for inner in schema.values():
        _modern(inner)
    if schema.get("exclusiveMinimum") is True:
        schema["exclusiveMinimum"] = schema.pop("minimum")
    if schema.pop("nullable", False) is True:
        inner = dict(schema)
        schema.clear()
        schema["anyOf"] = [inner, {"type": "null"}]


SWAPPED = {("status", "paused"): "running", ("purpose", "evals"): "batch"}


def _without_exceptions(content: Any, name: str = "") -> Any:
    """The content with what leaves the specification on purpose put into its words; docs/conformance.md has the list."""
    if isinstance(content, list):
        kept = content[1:] if name in ("token_logprobs", "top_logprobs") and content[:1] == [None] else content
        return [_without_exceptions(inner) for inner in kept]
    if isinstance(content, dict):
        if name == "graders" and "type" not in content:  # several by name, as its guide has them; the schema has room for one
            return _without_exceptions(next(iter(content.values())))
        stored = {"role": "assistant"} if "role" in content and "content_parts" in content else {}
        return {key: _without_exceptions(value, key) for key, value in (content | stored).items()}
    if name == "embedding" and isinstance(content, str) and content != "embedding":
        return list(base64.b64decode(content, validate=True))
    return SWAPPED.get((name, content), content) if isinstance(content, str) else content


def found() -> Specification | None:
    """The specification, where it lies beside the repository."""
    shared = Path(os.environ.get("LUTHIER_SHARED") or Path(__file__).parents[3] / "shared")
    file = shared / "data" / "openai-openapi" / "openapi.yaml"
    return Specification(file) if file.is_file() else None
