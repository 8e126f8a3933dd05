"""Batches."""

from __future__ import annotations

from typing import Literal

from luthier.server.wire._base import Answer, Asked, Id, Luthier, Metadata, maybe
from luthier.server.wire.files import ExpiresAfter

Endpoint = Literal[
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/moderations",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/videos",
]


class CreateBatch(Asked):
    """A file of requests to one endpoint, to be answered when there is time."""

    input_file_id: Id
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


class BatchError(Answer):
    """What is wrong with the input, and in which line."""

    code: str | None = maybe()
    message: str | None = maybe()
    param: str | None = None
    line: int | None = None


class BatchErrors(Answer):
    """All that is wrong with the input."""

    object: Literal["list"] = "list"
    data: list[BatchError]


class Counts(Answer):
    """Requests of a batch."""

    total: int
    completed: int
    failed: int


class InputDetails(Answer):
    """Of the tokens read, those known from before."""

    cached_tokens: int


class OutputDetails(Answer):
    """Of the tokens written, those nobody sees."""

    reasoning_tokens: int


class BatchUsage(Answer):
    """Tokens of all answers."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class Batch(Answer):
    """``batch_...``"""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None = maybe()
    errors: BatchErrors | None = maybe()
    input_file_id: str
    completion_window: str
    status: Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
    output_file_id: str | None = maybe()
    error_file_id: str | None = maybe()
    created_at: int
    in_progress_at: int | None = maybe()
    expires_at: int | None = maybe()
    finalizing_at: int | None = maybe()
    completed_at: int | None = maybe()
    failed_at: int | None = maybe()
    expired_at: int | None = maybe()
    cancelling_at: int | None = maybe()
    cancelled_at: int | None = maybe()
    request_counts: Counts
    usage: BatchUsage | None = maybe()
    metadata: dict[str, str] | None
    luthier: Luthier | None = maybe()
