"""The teacher writes the answers that are learned (Kim and Rush, arXiv 1606.07947, section 3.2): greedily, once, kept in the cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core.errors import DataError
from luthier.core.events import Listener, Note, Progress, Stage
from luthier.core.example import Example, Message
from luthier.core.files import fingerprint, write_text
from luthier.core.home import cache_folder
from luthier.core.spec import Spec
from luthier.data.tokenise import tokenise
from luthier.data.tokens import TokenTable
from luthier.inference.generate import generate
from luthier.jobs import heads, teachers
from luthier.jobs.prepare import Prepared, learned_rows
from luthier.models.model import Model

if TYPE_CHECKING:
    from luthier.jobs.training import Training

LONGEST = 512
"""Tokens a teacher may write; an answer that does not end by then is not learned."""


def taught(work: Training, *, listen: Listener) -> Prepared:
    """The data with the teacher's answers in the place of those of the training rows; as it is where the teacher writes none.

    Held-out rows keep their own answers: those are what the student is judged by.

    Raises:
        DataError: no answer of the teacher ended.
    """
    part = heads.objective(work.spec)
    if getattr(part, "answers", "data") != "teacher":
        return work.data
    listen(Stage("teach", f"{part.teacher} answers {len(work.data.rows)} rows"))
    examples = [e for e in learned_rows(work.spec, work.data.split) if e.form in ("chat", "completion")]
    file = cache_folder() / "taught" / f"{_key(work.spec, work.data, part.teacher)}.jsonl"
    if not file.is_file():
        with teachers.teacher(part.teacher, work.spec, work.model, work.method, tokens=False) as model:
            said = _written(model, examples, lambda done: listen(Progress("teach", done, len(examples))))
        write_text(file, "".join(json.dumps(text) + "\n" for text in said))
    said = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    kept = [_answered(example, text) for example, text in zip(examples, said, strict=True) if text]
    if len(kept) < len(examples):
        lost = len(examples) - len(kept)
        listen(Note(f"{lost} answers of the teacher did not end within {LONGEST} tokens and are not learned.", level="warning"))
    if not kept:
        raise DataError("No answer of the teacher ended.", remedy="Take another teacher, or objective.answers=data.", code="teacher")
    return replace(work.data, rows=_tokens(work.spec, work.model, kept, file))


def _key(spec: Spec, data: Prepared, teacher: str) -> str:
    return fingerprint(["taught", data.rows.fingerprint, data.split.train, teachers.identity(teacher), LONGEST])[:32]


def _written(model: Model, examples: list[Example], done: Callable[[int], None]) -> list[str]:
    """What the teacher writes to each row's question; empty where it does not end or the question leaves no room."""
    prompts = [model.renderer.prompt_of(example) for example in examples]
    asked = [i for i, prompt in enumerate(prompts) if 0 < len(prompt) < model.context]
    found = generate(
        model, [prompts[i] for i in asked], max_tokens=LONGEST, stop=model.renderer.end_tokens, on_progress=lambda n, _: done(n)
    )
    said = {i: model.renderer.decode(one.answer).strip() for i, one in zip(asked, found, strict=True) if one.stopped}
    return [said.get(i, "") for i in range(len(examples))]


def _answered(example: Example, text: str) -> Example:
    last = max(place for place, message in enumerate(example.messages) if message.role == "assistant")
    return replace(example, messages=[*example.messages[:last], Message("assistant", text)])


def _tokens(spec: Spec, model: Model, examples: list[Example], file: Path) -> TokenTable:
    return tokenise(
        examples, renderer=model.renderer, data=spec.data, context=model.context, cache=cache_folder() / "tokens", key=f"taught {file.stem}"
    )
