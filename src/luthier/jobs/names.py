"""Names of tuned models: ``ft:base:organisation:suffix:id``, and ``...:ckpt-step-40`` for what had been learned by then;
names of files on disk."""

from __future__ import annotations

import re

from sqlalchemy import select
from sqlalchemy.orm import Session

from luthier.store.tables.jobs import Job
from luthier.store.tables.tenants import Organisation, Project

KINDS = re.compile(r"\.(jsonl|ndjson|json|csv|tsv|parquet|txt|md)(\.gz)?$")

LONGEST_PART = 40
"""Letters of a part, so that the whole stays below 160."""


def tuned_model(session: Session, job: Job) -> str:
    """The name of what a job makes; the same however often it is asked."""
    owner = select(Organisation.name).join(Project, Project.organisation_id == Organisation.id).where(Project.id == job.project_id)
    base, organisation = job.model.rpartition("/")[2], session.scalars(owner).one()
    return "ft:" + ":".join(_plain(part) for part in (base, organisation, job.suffix or "", job.id.removeprefix("ftjob-")[-8:]))


def checkpoint(model: str, step: int) -> str:
    """The name of a tuned model as it was after `step` steps."""
    return f"{model}:ckpt-step-{step}"


def of_file(filename: str) -> str:
    """A user's file in letters, digits and dashes, with its kind, by which it is read; a file that names none of ours holds JSON lines."""
    kind = KINDS.search(filename.lower())
    stem = filename[: kind.start()] if kind else filename
    return (re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:40] or "data") + (kind.group() if kind else ".jsonl")


def _plain(part: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", part.lower())[:LONGEST_PART]
