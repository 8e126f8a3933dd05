"""Batches."""

from __future__ import annotations

from typing import Any, cast

from luthier.jobs.batch_lines import seconds
from luthier.server.wire import batches as wire
from luthier.server.wire._base import Luthier
from luthier.store.tables import batches as rows


def shown(batch: rows.Batch, *, luthier: Luthier | None = None) -> wire.Batch:
    """A batch."""
    times = {name: int(at) for name, at in batch.times.items() if name in wire.Batch.model_fields}
    return wire.Batch(
        id=batch.id,
        endpoint=batch.endpoint,
        model=batch.model,
        errors=wire.BatchErrors(data=[wire.BatchError(**error) for error in batch.errors]) if batch.errors else None,
        input_file_id=batch.input_file_id,
        completion_window=batch.completion_window,
        status=cast(Any, batch.state),
        output_file_id=batch.output_file_id,
        error_file_id=batch.error_file_id,
        created_at=int(batch.created_at),
        expires_at=int(batch.created_at + seconds(batch.completion_window)),
        request_counts=wire.Counts(**{"total": 0, "completed": 0, "failed": 0, **batch.counts}),
        usage=wire.BatchUsage(**batch.usage) if batch.usage else None,
        metadata=batch.facts or None,
        luthier=luthier,
        **times,
    )
