"""What a job learns from, as a run wants it: files with names, and the Spec that names them.

    LUTHIER_HOME/inputs/JOB/training/tickets.jsonl -> the blob

A link and no copy, so that a file that is deleted is gone. The name is made of a user's, letter by letter; nothing else of it gets here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import select

from luthier.core.errors import LuthierError, NotFound, SpecError
from luthier.core.files import storing
from luthier.core.home import home
from luthier.core.spec import Spec
from luthier.data.render import Renderer
from luthier.jobs import specs
from luthier.jobs.derive import usual_rate
from luthier.jobs.names import of_file
from luthier.jobs.prepare import DataRefused
from luthier.models.config import read_config
from luthier.models.find import find
from luthier.models.load import outline
from luthier.store.blobs import Blobs
from luthier.store.database import Database
from luthier.store.tables._base import Facts
from luthier.store.tables.files import File
from luthier.store.tables.jobs import Job

ROLES = {"training": "training_file", "validation": "validation_file"}
"""Folder of a file -> its field on the wire."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Files of a job: by role, where they are, how their owner calls them, and their ids."""

    places: dict[str, Path] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)

    def named(self, text: str) -> str:
        """`text` with the owner's names in place of ours."""
        for role, place in self.places.items():
            text = text.replace(str(place), self.names[role])
        return text

    def error(self, problem: LuthierError) -> Facts:
        """What stopped a job, as the wire shows it: the place of a wrong row is in the message, the field it came by in `param`."""
        place = problem.report.problems[0].file if isinstance(problem, DataRefused) and problem.report.problems else problem.where
        role = next((role for role, path in self.places.items() if place.startswith(str(path))), "")
        param = ROLES.get(role) or (problem.where if problem.where in ROLES.values() else None)
        where, remedy = f"{self.names[role]}: " if role else "", problem.remedy
        if role and isinstance(problem, DataRefused):  # its own names a verb for files of one's own
            remedy = f"\nCorrect them and upload the file again; GET /v1/files/{self.ids[role]}/report lists every one."
        return {"code": problem.code, "message": self.named(f"{where}{problem.what} {remedy}".strip()), "param": param}


@contextmanager
def placed(database: Database, blobs: Blobs, job: Job) -> Iterator[Inputs]:
    """The files of a job within the block; their links stay behind it.

    Raises:
        NotFound: a file was deleted, or expired. StorageError: its bytes cannot be reached.
    """
    with ExitStack() as stack:
        given = Inputs()
        for role, name in ROLES.items():
            if file_id := getattr(job, name):
                file = _row(database, file_id, name)
                given.names[role], given.ids[role] = file.filename, file.id
                link = home() / "inputs" / job.id / role / of_file(file.filename)
                given.places[role] = _link(link, stack.enter_context(blobs.path(file.digest)))
        yield given


def spec_of(job: Job, inputs: Inputs) -> Spec:
    """The Spec that a job's child runs: with its files, and with the learning rate that the wire's multiplier means.

    Raises:
        SpecError: the multiplied rate is out of range.
    """
    content = dict(job.spec)
    content["data"] = content["data"] | {"file": str(inputs.places["training"])}
    if "validation" in inputs.places:
        content["data"]["valid"] = str(inputs.places["validation"])
    spec, multiplier = Spec.parse(content), job.hyperparameters.get("learning_rate_multiplier", "auto")
    if multiplier == "auto":
        return spec
    objective = specs.OBJECTIVES.load(spec.objective.name).Objective
    rate, _ = usual_rate(spec, parameters=parameters(spec.model.name), objective_rate=objective.rate)
    content["train"] = content["train"] | {"learning_rate": rate * multiplier}
    try:
        return Spec.parse(content)
    except SpecError as error:
        raise SpecError(error.what, remedy="Ask for a smaller learning_rate_multiplier.", code=error.code) from error


def parameters(model: str) -> int:
    """Weights of a base, counted without loading one."""
    folder = find(model)
    return outline(read_config(folder), renderer=Renderer.from_folder(folder)).num_parameters


def _row(database: Database, file_id: str, field: str) -> File:
    with database.read() as session:
        file = session.scalar(select(File).where(File.id == file_id))
    if file is None:
        raise NotFound(
            f"The {field} {file_id} was deleted.", where=field, remedy="Upload it again and make a new job.", code="unknown_file"
        )
    return file


def _link(link: Path, place: Path) -> Path:
    with storing(link):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(place.absolute())
    return link
