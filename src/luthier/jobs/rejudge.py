"""A finished run, compared with its base again on other rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from luthier.core.errors import NotFound
from luthier.core.events import Listener, Note, Progress, Stage, silence
from luthier.core.example import Example
from luthier.core.files import fingerprint, sha256, write_json
from luthier.core.home import cache_folder
from luthier.core.spec import EvaluateSpec, Spec, checked
from luthier.data.content import content, digest
from luthier.data.pairs import chosen_only
from luthier.data.select import Selected
from luthier.data.tokenise import tokenise
from luthier.evaluation.evaluate import Evaluation
from luthier.jobs import heads
from luthier.jobs.result import Run
from luthier.store.runs import free


def judge(run: Run, file: Path, *, out: Path | None = None, listen: Listener = silence, **said: Any) -> tuple[Evaluation, Path]:
    """Compare base and tuned on the rows of `file`; the run's certificate is replayed when its model is loaded.

    Args:
        out: folder that gets ``evaluation/items.jsonl`` and ``summary.json``; left out, ``evaluations/NAME`` inside the run.
        said: settings of `EvaluateSpec` that replace those of the run (``rows``, ``metric``, ``max_tokens``, ``resamples``).

    Returns:
        the comparison, and the folder.

    Raises:
        NotFound: no such file. SpecError: `out` is not empty. DataError: a row cannot be read, or is too long for the run's settings.
    """
    if not file.is_file():
        raise NotFound("There is no such file of rows.", where=str(file), remedy="Give the path of an existing file.", code="no_file")
    spec = checked(EvaluateSpec, run.spec.evaluate.model_dump() | {"max_tokens": "auto"} | said, path="evaluate")
    if out is not None:
        free(out)
    listen(Stage("evaluate", f"base and tuned on {file.name}"))
    data = run.spec.data.model_copy(update={"file": str(file), "format": "auto"})
    examples = list(Selected.of(file, group=data.group))
    key = fingerprint(["rejudge", sha256(file), data.model_dump(mode="json", exclude={"file", "valid"}), run.model.context])
    rows = tokenise(examples, renderer=run.model.renderer, data=data, context=run.model.context, cache=cache_folder() / "tokens", key=key)
    folder = out or run.folder / "evaluations" / file.stem.split(".")[0]
    found = heads.judge(run.spec)(
        run.model,
        run.method,
        examples,
        heads.laid(run.spec, rows, run.model.renderer, format="auto"),
        spec=spec,
        folder=folder,
        on_progress=lambda done, total: listen(Progress("evaluate", done, total)),
    )
    _warn_of_learned_rows(run, examples, found, folder, listen)
    return found, folder


def _warn_of_learned_rows(run: Run, examples: list[Example], found: Evaluation, folder: Path, listen: Listener) -> None:
    """Rows the run has learned make tuned look better than it is: said in the result, where the training file is still there."""
    shared = _learned(run) & {_said(example) for example in examples}
    if shared:
        note = f"{len(shared)} of the {len(examples)} rows were learned by this run: the comparison flatters it."
        found.notes.append(note)
        write_json(folder / "evaluation" / "summary.json", found.to_json())
        listen(Note(note, level="warning"))


def _learned(run: Run) -> set[bytes]:
    spec: Spec = run.spec
    path = Path(spec.data.file)
    if not (path.is_file() and run.files.split.is_file()):
        return set()
    train = frozenset(json.loads(run.files.split.read_text(encoding="utf-8"))["train"])
    return {_said(example) for example in Selected.of(path, format=spec.data.format, rows=train)}


def _said(example: Example) -> bytes:
    """What a row says, a pair by its chosen answer only: the other one is not learned."""
    return digest(content(chosen_only(example, learn="answers")))
