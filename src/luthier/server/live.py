"""Numbers of now for Prometheus: the queue, workers, what is kept."""

from __future__ import annotations

import time
from collections.abc import Iterator

from sqlalchemy import func, select

from luthier.server.service import Service
from luthier.store.tables.files import File
from luthier.store.tables.jobs import Job, Worker

SEEN = 60.0
"""A worker that was not heard of for so many seconds is gone."""

FIGURES = {
    "rows": "Answers being written, by base.",
    "waiting": "Questions that wait for room, by base.",
    "tokens_read": "Tokens read since the base was loaded.",
    "tokens_reused": "Tokens that were known from before and not read again.",
    "tokens_written": "Tokens written since the base was loaded.",
    "places": "Tokens whose keys and values can be held.",
    "places_used": "Tokens whose keys and values are held.",
    "adapters": "Tuned models in memory on the base.",
    "adapter_bytes": "Their bytes.",
    "model_bytes": "Bytes of the base.",
}
"""What `Host.figures` says of each base in memory."""

Sample = tuple[str, str, dict[str, str], float]


def numbers(service: Service) -> Iterator[Sample]:
    """Name, explanation, labels and value of each."""
    with service.database.read() as session:
        for state, count in session.execute(select(Job.state, func.count()).group_by(Job.state)):
            yield "luthier_jobs", "Jobs by state.", {"state": state}, float(count)
        workers = session.scalar(select(func.count()).select_from(Worker).where(Worker.seen_at > time.time() - SEEN))
        yield "luthier_workers", "Workers heard of within a minute.", {}, float(workers or 0)
        files, kept = session.execute(select(func.count(), func.sum(File.bytes))).one()
        yield "luthier_files", "Files kept.", {}, float(files)
        yield "luthier_files_bytes", "Their bytes, as users see them; equal files lie there once.", {}, float(kept or 0)
    for base, figures in service.host.figures().items() if service.is_warm else ():
        for name, value in figures.items():
            yield f"luthier_serving_{name}", FIGURES[name], {"base": base}, float(value)
    yield "luthier_up_seconds", "Since the service began.", {}, time.time() - service.begun
    yield "luthier_models_ready", "1 once models can be asked.", {}, float(service.is_warm)
