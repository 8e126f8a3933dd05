"""What each method takes on one base on this machine: memory as `luthier plan` foresees it, time as a few real steps take it.

Rows are made up, so that every base is asked the same: 8 of about `TOKENS` tokens a step. A base that says the next token learns answers;
another one, and a method that moves nothing but a head, learn labels.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.core.errors import SpecError
from luthier.core.events import Listener, Stage, silence
from luthier.core.spec import Spec
from luthier.jobs import heads, specs, training
from luthier.jobs.fitting import check_fit
from luthier.jobs.planning import weigh
from luthier.jobs.prepare import prepare
from luthier.models.load import load
from luthier.models.machine import resident
from luthier.models.model import Model

ROWS, TOKENS, STEPS = 8, 128, 3
"""A step's rows, about their length, and the steps that are tried; the first one warms up and is not counted."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one method takes.

    Attributes:
        moved: weights that move, a head's included. share: of the base's weights.
        result_bytes: of what is saved. peak_bytes: most memory while it trains, program and base included; 0 where it is not foreseen.
        tokens_per_second: of a step, there and back.
    """

    method: str
    objective: str
    moved: int
    share: float
    result_bytes: int
    peak_bytes: int
    tokens_per_second: float


def costs(base: str, *, dtype: str = "auto", listen: Listener = silence) -> Iterator[Cost]:
    """Every method that goes with the base and has no setting that must be said, in the order of their names.

    Raises:
        ModelError, NotFound: the base does not load. SpecError: it reads no words.
    """
    program = resident()
    names = [name for name in specs.METHODS.names() if not _has_to_be_told(name)]
    for name in names:
        listen(Stage("try", name))
        model = load(base, dtype=dtype)  # type: ignore[arg-type]
        if model.vocabulary < 2 or "sounds" in model.family.GIVES:
            raise SpecError(f"{base} reads no words, and costs are tried with words.", remedy="Take `luthier plan FILE`.", code="bad_value")
        with tempfile.TemporaryDirectory() as place:
            spec = _spec(base, dtype, name, model, Path(place))
            try:
                check_fit(spec, model)
            except SpecError:
                continue
            yield _cost(spec, model, program)


def _has_to_be_told(name: str) -> bool:
    return any(field.is_required() for field in specs.METHODS.load(name).Options.model_fields.values())


def _spec(base: str, dtype: str, method: str, model: Model, place: Path) -> Spec:
    """A run over made-up rows."""
    labels = "next-token" not in model.family.GIVES or "head" in specs.METHODS.load(method).Method.needs
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    long = " ".join(words[i % 10] for i in range(min(TOKENS, model.context // 4) // 2))
    rows = [
        {"prompt": f"{n} {long if labels else words[n % 10]}?", "completion": words[n % 2] if labels else f"{long} {n}"}
        for n in range(ROWS * (STEPS + 1))
    ]
    file = place / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    train = {"rows_per_step": ROWS, "max_steps": STEPS, "epochs": 1}
    objective = "predict" if labels else "sft"
    more: dict[str, Any] = {"model": {"name": base, "dtype": dtype}, "method": method, "objective": objective, "train": train}
    return specs.gather(data={"file": str(file), "too_long": "drop"}, **more)


def _cost(spec: Spec, model: Model, program: int) -> Cost:
    parameters = model.num_parameters
    training.make_room(spec, model)
    data = prepare(spec, model.renderer, context=model.context, listen=silence)
    spec = training.derived(spec, model, data, listen=silence)
    peak = 0 if model.packing else weigh(spec, model, data.rows, program=program, available=1 << 60).weighed[0].peak
    method: Any = training.attach(spec, model)
    rows = heads.laid(spec, data.rows, model.renderer)
    session = training.new_session(spec, model, method, rows=rows, valid=[])
    steps = [session.advance() for _ in range(session.steps)]
    state = method.state(model).values()
    return Cost(
        method=spec.method.name,
        objective=spec.objective.name,
        moved=(moved := sum(tensor.numel() for tensor in state)),
        share=moved / parameters,
        result_bytes=sum(tensor.nbytes for tensor in state),
        peak_bytes=peak,
        tokens_per_second=statistics.median(step.tokens / step.seconds for step in steps[1:] or steps),
    )
