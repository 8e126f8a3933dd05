"""Completions that a client asked to store."""

from __future__ import annotations

from typing import Any

from sqlalchemy import String, cast, select
from sqlalchemy.orm import Session
from starlette.datastructures import QueryParams

from luthier.server.caller import Caller
from luthier.server.errors import invalid, not_there
from luthier.server.wire.chat import Chat, CreateChat, StoredMessage
from luthier.store.audit import record
from luthier.store.database import Database
from luthier.store.tables.chats import StoredCompletion


def store(database: Database, caller: Caller, body: CreateChat, answer: Chat) -> None:
    """Keep request and answer, as the wire showed them."""
    row = StoredCompletion(
        id=answer.id,
        created_at=answer.created,
        project_id=caller.project_id,
        model=answer.model,
        facts=body.metadata or {},
        request=body.model_dump(mode="json", exclude_unset=True, by_alias=True),
        answer=answer.model_dump(mode="json", by_alias=True),
    )
    with database.write() as session:
        session.add(row)
        record(session, caller.actor, "chat.store", row.id, request_id=caller.request_id)


def find(session: Session, caller: Caller, id: str) -> StoredCompletion:
    """A stored completion of the project.

    Raises:
        WireError: 404.
    """
    row = session.scalar(select(StoredCompletion).where(StoredCompletion.id == id, StoredCompletion.project_id == caller.project_id))
    if row is None:
        raise not_there("stored completion", id)
    return row


def shown(row: StoredCompletion) -> Chat:
    """As it was answered, with the metadata of now."""
    return Chat.model_validate(row.answer | {"metadata": row.facts or None})


def messages(row: StoredCompletion) -> list[StoredMessage]:
    """What was asked, turn by turn."""
    return [_message(row.id, number, said) for number, said in enumerate(row.request["messages"])]


def _message(id: str, number: int, said: dict[str, Any]) -> StoredMessage:
    content = said.get("content")
    parts = (
        [{"type": "text", "text": part.get("text") or part.get("refusal") or ""} for part in content] if isinstance(content, list) else None
    )
    return StoredMessage(
        id=f"{id}-{number}",
        role=said["role"],
        content=None if parts else content,
        content_parts=parts,
        refusal=said.get("refusal"),
        name=said.get("name"),
        tool_calls=said.get("tool_calls"),
        tool_call_id=said.get("tool_call_id"),
    )


def with_metadata(query: QueryParams, column: Any) -> list[Any]:
    """Conditions of ``metadata[k]=v``, and of ``metadata=null``: those without any.

    Raises:
        WireError: a key that neither database can look for.
    """
    wanted: list[Any] = []
    for name, value in query.multi_items():
        if name == "metadata" and value == "null":
            wanted.append(cast(column, String) == "{}")
        elif name.startswith("metadata[") and name.endswith("]"):
            key = name[len("metadata[") : -1]
            if not key.isprintable() or '"' in key or "\\" in key or "\0" in value:
                raise invalid("Keys with quotes or control characters cannot be looked for.", param="metadata", code="invalid_value")
            wanted.append(column[key].as_string() == value)
    return wanted
