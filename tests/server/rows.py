"""Things in the database that would take a worker minutes to make."""

from __future__ import annotations

from typing import Any

from luthier.jobs.states import move, tell
from luthier.security.actor import Actor, actor_of
from luthier.store import ids
from luthier.store.tables.jobs import Checkpoint, Job
from luthier.store.tables.models import TunedModel
from luthier.store.tables.tenants import Project
from server.live import Live


def actor(live: Live, secret: str = "") -> Actor:
    """Whom a key acts for."""
    with live.service.database.read() as session:
        return actor_of(session, secret or live.secret)


def finish(live: Live, job_id: str) -> str:
    """Let a job have succeeded; returns the id of a checkpoint of it."""
    with live.service.database.write() as session:
        job = session.query(Job).filter(Job.id == job_id).one()
        job.fine_tuned_model = f"ft:{job.model}:default:{job.suffix or ''}:{job.id[-6:]}"
        step: dict[str, Any] = {"step": 2, "train_loss": 1.5, "valid_loss": 1.25, "learning_rate": 1e-4}
        for state in ("queued", "running"):
            move(session, job, state, f"It is {state}.")
        tell(session, job, "Step 2: training loss=1.50", data=step)
        name = f"{job.fine_tuned_model}:ckpt-step-2"
        session.add(Checkpoint(id=ids.new("ftckpt_"), job_id=job.id, model_id=name, step=2, metrics=step))
        for model, at in ((job.fine_tuned_model, None), (name, 2)):
            beside = {"project_id": job.project_id, "job_id": job.id, "base": job.model, "method": "lora", "run": "nowhere"}
            session.add(TunedModel(id=model, folder="adapter", step=at, **beside))
        job.trained_tokens, job.verdict = 1234, {"sentence": "No difference shown."}
        move(session, job, "succeeded", "Done.")
        return name


def project(live: Live, name: str) -> str:
    """Another project of the same organisation."""
    with live.service.database.write() as session:
        made = Project(id=ids.new("proj_"), organisation_id=actor(live).organisation_id, name=name)
        session.add(made)
        return made.id
