"""Jobs, events, checkpoints, permissions."""

from __future__ import annotations

from typing import Any, cast

from luthier.server.wire import jobs as wire
from luthier.store.tables import jobs as rows
from luthier.store.tables.models import TunedModel


def shown(job: rows.Job, organisation_id: str, luthier: wire.JobLuthier | None = None) -> wire.Job:
    """A job."""
    return wire.Job(
        id=job.id,
        created_at=int(job.created_at),
        finished_at=_whole(job.finished_at),
        model=job.model,
        fine_tuned_model=job.fine_tuned_model,
        organization_id=organisation_id,
        status=cast(Any, job.state),
        hyperparameters=wire.JobHyperparameters(**job.hyperparameters),
        training_file=job.training_file,
        validation_file=job.validation_file,
        result_files=job.result_files,
        trained_tokens=job.trained_tokens,
        error=wire.JobError(**{"param": None, **job.error}) if job.error else None,
        seed=job.seed,
        estimated_finish=_whole(job.estimated_finish),
        integrations=job.integrations or None,
        metadata=job.facts or None,
        method=wire.JobMethod(**job.method),
        luthier=luthier or in_list(job),
    )


def in_list(job: rows.Job) -> wire.JobLuthier:
    """What the row alone tells beyond the wire."""
    return wire.JobLuthier(ignored=job.asked.get("ignored") or None, wanted=job.wanted, verdict=job.verdict, run=job.run or None)


def alone(job: rows.Job, position: int | None, model: TunedModel | None) -> wire.JobLuthier:
    """What is looked up for a single job."""
    more = {"queue_position": position, "spec": _spec(job), "certificate": model.certificate if model else None}
    return in_list(job).model_copy(update=more)


def _spec(job: rows.Job) -> dict[str, Any]:
    """The Spec in the words of the client: places on this machine are not told."""
    named = {
        "model": {"name": job.model},
        "data": {"file": job.training_file, **({"valid": job.validation_file} if job.validation_file else {})},
    }
    return {section: fields | named[section] if section in named else fields for section, fields in job.spec.items()}


def shown_event(event: rows.JobEvent) -> wire.JobEvent:
    """An event."""
    return wire.JobEvent(
        id=event.id,
        created_at=int(event.created_at),
        level=cast(Any, event.level),
        message=event.message,
        type=cast(Any, event.type),
        data=event.data,
    )


def shown_checkpoint(checkpoint: rows.Checkpoint) -> wire.JobCheckpoint:
    """A checkpoint."""
    known = wire.CheckpointMetrics.model_fields
    return wire.JobCheckpoint(
        id=checkpoint.id,
        created_at=int(checkpoint.created_at),
        fine_tuned_model_checkpoint=checkpoint.model_id,
        fine_tuning_job_id=checkpoint.job_id,
        step_number=checkpoint.step,
        metrics=wire.CheckpointMetrics(**{name: value for name, value in checkpoint.metrics.items() if name in known}),
    )


def shown_permission(permission: rows.CheckpointPermission) -> wire.Permission:
    """A permission."""
    return wire.Permission(id=permission.id, created_at=int(permission.created_at), project_id=permission.project_id)


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
