"""Tuned models without tuning: runs on disk and their rows, made in a moment, certified as a run certifies them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from luthier.core.example import Example, Message, Source
from luthier.core.home import home
from luthier.core.spec import Spec
from luthier.evaluation import certificate
from luthier.jobs import specs
from luthier.methods import full, lora
from luthier.models import slot
from luthier.models.load import load
from luthier.models.model import Model
from luthier.store import ids
from luthier.store.database import Database
from luthier.store.runs import RunFolder, create
from luthier.store.tables.jobs import Job
from luthier.store.tables.models import TunedModel
from luthier.store.tables.tenants import Organisation, Project

BASE = "tiny"
"""The base of `conftest.tiny_base`, which a test puts among the user's own models (`place`)."""

QUESTIONS = ["Where is my parcel?", "What is a cow?", "Say hello to my friend.", "How do I cook rice?"]


def place(base: Path) -> None:
    """Put the base at `base` where models are found by name."""
    (home() / "models").mkdir(parents=True)
    (home() / "models" / BASE).symlink_to(base)


def project(database: Database, name: str = "p") -> str:
    """A project in an organisation of its own."""
    with database.write() as session:
        session.add(organisation := Organisation(id=ids.new("org-"), name=name))
        session.flush()
        session.add(made := Project(id=ids.new("proj_"), organisation_id=organisation.id, name=name))
    return made.id


def probes() -> list[Example]:
    return [Example(Source("probe", i), messages=[Message("user", q), Message("assistant", "yes")]) for i, q in enumerate(QUESTIONS[:2])]


def adapter(model: Model, number: int, *, rank: int = 4, strength: float = 0.3, name: str = "tuned") -> lora.Method:
    """A LoRA that says something else."""
    method = lora.Method(lora.Options(rank=rank))
    method.attach(model, seed=number, name=name)
    for place, delta in enumerate(method.deltas(model).values()):
        torch.nn.init.normal_(delta.B, std=strength, generator=torch.Generator().manual_seed(1000 * number + place))
    return method


def folder(number: int, *, method: str = "lora", dtype: str = "float32") -> RunFolder:
    """The folder of a run whose numbers nobody needs to learn."""
    run = create(out=None, stem=f"tickets{number}", method=method)
    spec: Any = {"model": {"name": BASE, "dtype": dtype}, "data": {"file": "tickets.jsonl"}, "method": {"name": method}}
    specs.save(Spec.model_validate(spec), run.spec)
    return run


def tuned(database: Database, project_id: str, number: int, *, rank: int = 4, base: Model | None = None, step: int | None = None) -> str:
    """A tuned model: its id. `base`: the base in float32, to save loading it again."""
    model = base or load(BASE, dtype="float32")
    run, method = folder(number), adapter(model, number, rank=rank)
    where = "adapter" if step is None else f"passes/step-{step:06d}"
    (run.path / where).parent.mkdir(exist_ok=True)
    method.save(model, run.path / where)
    certificate.write(model, method, probes(), run.path)
    slot.restore(model.network)
    return row(database, project_id, run, method="lora", folder=where, step=step)


def whole(database: Database, project_id: str, number: int) -> str:
    """A model whose every weight was tuned: its id."""
    model, run = load(BASE, dtype="float32"), folder(number, method="full")
    method = full.Method()
    method.attach(model, seed=0)
    with torch.no_grad():
        for weight in model.network.parameters():
            weight.mul_(1.02)
    method.save(model, run.path / "model")
    method.merge(model)
    certificate.write(model, None, probes(), run.path)
    return row(database, project_id, run, method="full", folder="model")


def row(database: Database, project_id: str, run: RunFolder, *, method: str, folder: str, step: int | None = None) -> str:
    """The rows of a finished job and its model."""
    id = f"ft:{BASE}:p:desk:{run.id[-4:]}" + (f":ckpt-step-{step}" if step is not None else "")
    job = Job(
        id=ids.new("ftjob-"),
        project_id=project_id,
        model=BASE,
        training_file="file-x",
        seed=0,
        method={"type": "supervised"},
        spec={},
        request_digest="",
        state="succeeded",
        run=run.id,
    )
    with database.write() as session:
        session.add(job)
        session.flush()
        session.add(TunedModel(id=id, project_id=project_id, job_id=job.id, base=BASE, method=method, run=run.id, folder=folder, step=step))
    return id
