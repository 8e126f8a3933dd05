"""From a request to a job in the database: everything that can be known now is checked now, and nothing is read or trained yet.

A request that is sent again makes one job. The ``openai`` client sends no key; it only says that it tries again, so the same request of
the same key within a minute counts as the same where it says so. An ``Idempotency-Key`` counts for a day.
"""

from __future__ import annotations

import re
import time
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from luthier.core.errors import NotFound, SpecError, did_you_mean
from luthier.core.files import fingerprint
from luthier.jobs.asked import NewJob, spec_of
from luthier.jobs.states import tell
from luthier.models.catalog import catalog
from luthier.models.find import find, local_models
from luthier.store import files, ids
from luthier.store.audit import Who, project_of, record
from luthier.store.database import Database, exclusive
from luthier.store.tables.files import File
from luthier.store.tables.jobs import Job

SAME_WITHIN = 60.0
"""Seconds in which an equal request that calls itself a retry is the one before. The client's own back-off is 8 s at most, twice."""

SAME_KEY_WITHIN = 24 * 3600.0

BASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
"""A name of the catalog, of a folder under LUTHIER_HOME/models, or ``maker/model``: never a path."""


def submit(database: Database, new: NewJob, who: Who, *, request_id: str | None = None) -> Job:
    """Make a job, or find the one this request made before.

    Raises:
        SpecError, NotFound: something was asked wrongly, or is not there; `where` is the name of the field on the wire.
    """
    digest = new.digest(who.name)
    key = fingerprint([who.name, new.idempotency_key]) if new.idempotency_key else digest
    job = draft(new, who)
    with database.write() as session:
        exclusive(session, key)
        if (before := _before(session, new, job.project_id, key, digest)) is not None:
            return before
        named = files_of(session, job)
        job.request_digest, job.asked = key, job.asked | {"request": digest}
        session.add(job)
        session.flush()
        tell(session, job, f"The job was made: {new.model} learns from {', and is held against '.join(named)}.")
        tell(session, job, "Its files are being checked.")
        record(session, who, "job.create", job.id, request_id=request_id, model=new.model, training_file=job.training_file)
        return job


def draft(new: NewJob, who: Who) -> Job:
    """The job that a request asks for, in no database yet; its files were not looked for.

    Raises:
        SpecError, NotFound: as `submit`.
    """
    spec, base = spec_of(new), base_of(new.model)
    spec = spec.model_copy(update={"model": spec.model.model_copy(update={"name": base})})
    numbers = new.numbers_shown
    ignored = sorted({*new.ignored, *(["integrations"] if new.integrations else [])})
    return Job(
        id=ids.new("ftjob-"),
        created_at=time.time(),
        project_id=project_of(who),
        key_id=who.name,
        model=new.model,
        training_file=new.training_file,
        validation_file=new.validation_file,
        suffix=new.suffix,
        seed=spec.train.seed,
        facts=new.metadata or {},
        method={"type": new.way, new.way: {"hyperparameters": numbers, **_grader(new)}},
        hyperparameters=numbers,
        integrations=new.integrations or [],
        spec=spec.model_dump(mode="json"),
        asked={"luthier": new.luthier or {}, "ignored": ignored},
    )


def _grader(new: NewJob) -> dict[str, Any]:
    """The grader as it was asked for, where there is one."""
    told = new.method.reinforcement if new.method and new.way == "reinforcement" else None
    return {"grader": told.grader} if told else {}


def files_of(session: Session, job: Job) -> list[str]:
    """Names of the files a job learns from.

    Raises:
        NotFound: one is not there. SpecError: it was sent for something else.
    """
    said = {"training_file": job.training_file, "validation_file": job.validation_file}
    return [_file(session, job.project_id, file_id, field).filename for field, file_id in said.items() if file_id is not None]


def base_of(name: str) -> str:
    """What a Spec calls the base that a client names: a name of the catalog or the hub's cache as it is, a folder of ours by its place.

    Raises:
        SpecError, NotFound: no base of this name is on this machine.
    """
    if name.startswith("ft:"):
        remedy = "Name its base; to build on a tuned model, export it merged into LUTHIER_HOME/models first."
        raise SpecError("A tuned model cannot be tuned further by a job yet.", where="model", remedy=remedy, code="unknown_model")
    own = dict(local_models())
    if not BASE.fullmatch(name) or (name not in own and name not in catalog()):
        near = did_you_mean(name, {*own, *catalog()})
        raise NotFound(f"There is no model {name[:100]!r} here.", where="model", remedy=near, code="unknown_model")
    if name in catalog():
        try:
            find(name)
        except NotFound as error:
            raise NotFound(error.what, where="model", remedy=error.remedy, code=error.code) from error
        return name
    return name if "/" in name else str(own[name])


def _file(session: Session, project: str, file_id: str, field: str) -> File:
    try:
        file = files.get(session, project, file_id)
    except NotFound as error:
        raise NotFound(error.what, where=field, remedy="Upload it with purpose fine-tune.", code=error.code) from error
    if file.purpose != "fine-tune":
        what = f"{file_id} was sent for {file.purpose}, not for fine-tune."
        raise SpecError(what, where=field, remedy="Upload it again with purpose fine-tune.", code="wrong_purpose")
    return file


def _before(session: Session, new: NewJob, project: str, key: str, digest: str) -> Job | None:
    """The job that this very request made a moment ago."""
    within = SAME_KEY_WITHIN if new.idempotency_key else SAME_WITHIN
    if not new.idempotency_key and not new.retry:
        return None
    same = (Job.request_digest == key, Job.project_id == project, Job.created_at > time.time() - within)
    job = session.scalar(select(Job).where(*same).order_by(Job.n.desc()).limit(1))
    if job is not None and job.asked.get("request") != digest:
        what = "This Idempotency-Key was used for another request."
        raise SpecError(what, where="Idempotency-Key", remedy="Take a new key for a new request.", code="key_reused")
    return job
