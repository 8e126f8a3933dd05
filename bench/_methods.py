"""The works of ``methods.py``: each makes its files from ../shared/data, tunes as ``luthier tune`` does, and measures what it learned.

A cell is one work, one way and one seed, in a process of its own. The seed chooses the training rows, the beginning and the order; the
held-out rows are always the same, and decide nothing: the weights after the last step are measured.
"""

from __future__ import annotations

import csv
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _bed
import _rival_jobs as jobs
import numpy as np
import psutil
import torch
from sacrebleu import corpus_bleu, corpus_chrf
from sklearn.metrics import f1_score

from luthier.core.events import Event, Stepped
from luthier.core.example import Example
from luthier.core.sequence import Row
from luthier.data.read import read
from luthier.data.render import Renderer
from luthier.engine.score import outputs
from luthier.evaluation.likelihood import likelihood
from luthier.inference.generate import generate
from luthier.jobs import heads, specs
from luthier.jobs.result import opened
from luthier.jobs.run import train_only
from luthier.models import load
from luthier.objectives import dpo

DATA = _bed.SHARED / "data"
NEVER = 1_000_000
"""Steps between looks at held-out rows: more than any cell takes."""


@dataclass
class Cell:
    """One cell, its place on disk, and how much of everything it takes.

    Attributes:
        way: a method, or what else the work compares; with ``(WHO)`` behind it that of a rival.
        scale: share of the usual rows; the smoke test takes next to none. model: base of the work `packed`.
        rival: the interpreter that has PEFT and TRL, for the ways they take.
    """

    way: str
    seed: int
    place: Path
    scale: float = 1.0
    model: str = "luthier-mini"
    rival: str = ""

    def count(self, usual: int) -> int:
        return max(24, round(usual * self.scale))

    @property
    def method(self) -> str:
        return self.way.partition(" (")[0]

    @property
    def theirs(self) -> bool:
        return self.method != self.way


@dataclass
class Tuned:
    """What came out of a run, with its costs."""

    model: Any
    method: Any
    spec: Any
    folder: Path
    numbers: dict[str, float] = field(default_factory=dict)


def tuned(cell: Cell, rows: Iterable[dict[str, Any]], held_out: Iterable[dict[str, Any]], *, name: str = "run", **sections: Any) -> Tuned:
    """Tune on `rows` by the product's own stages, without its comparison with the base."""
    steps: list[Stepped] = []

    def listen(event: Event) -> None:
        if isinstance(event, Stepped):
            steps.append(event)

    file, valid = files(cell, rows, held_out, name=name)
    train = {"seed": cell.seed, "validate_every": NEVER, "save_every": NEVER, **sections.pop("train", {})}
    start = time.perf_counter()
    spec = specs.gather(data={"file": str(file), "valid": str(valid), "too_long": "drop"}, train=train, **sections)
    run = train_only(spec, out=cell.place / name, listen=listen)
    whole = time.perf_counter() - start
    peak = _bed.peak_mb()
    spec = specs.load(run.spec)
    model, method = opened(run, spec)
    moved = sum(tensor.numel() for tensor in method.state(model).values())
    costs = {"moved": moved, "seconds": sum(step.seconds for step in steps), "whole": whole, "peak_mb": peak, "steps": len(steps)}
    return Tuned(model, method, spec, run.path, costs)


def files(cell: Cell, rows: Iterable[dict[str, Any]], held_out: Iterable[dict[str, Any]], *, name: str = "run") -> tuple[Path, Path]:
    """Both files; no row is in both, or twice in one."""
    unseen = {_content(row): row for row in held_out}
    learned = {_content(row): row for row in rows if _content(row) not in unseen}
    return write(cell.place / f"{name}.jsonl", learned.values()), write(cell.place / f"{name}-held-out.jsonl", unseen.values())


def _content(row: dict[str, Any]) -> str:
    return " ".join(json.dumps(row).lower().split())


def write(file: Path, rows: Iterable[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return file


def rows_of(found: Tuned, file: Path, *, learn: str = "last_answer") -> list[Row]:
    """The rows of a file as the objective reads them."""
    renderer = found.model.renderer
    rows = [Row(example.source, renderer.render(example, learn=learn)) for example in examples(file)]
    return list(heads.laid(found.spec, rows, renderer))


def examples(file: Path) -> Iterator[Example]:
    """Those of a file; its warnings (sounds of few samples a second) are not for here."""
    return (example for example in read(file) if isinstance(example, Example))


def table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        return list(csv.DictReader(lines))


def drawn(rows: list[Any], count: int, seed: int) -> list[Any]:
    return random.Random(seed).sample(rows, min(count, len(rows)))


def banking(name: str) -> list[dict[str, str]]:
    return [{"prompt": row["text"], "completion": row["category"].replace("_", " ")} for row in table(DATA / "ft_banking77" / name)]


def banking77(cell: Cell) -> dict[str, float]:
    """One of 77 intents of a bank's customers, by a head on luthier-mini."""
    test = drawn(banking("test.csv"), cell.count(1000), 0)
    rows = drawn(banking("train.csv"), cell.count(2000), cell.seed)
    labels = sorted({row["completion"] for row in [*rows, *test]})
    passes = 20 if cell.method == "head" else 2  # a pass over kept states costs next to nothing; the rival runs the network in each
    train = {"epochs": passes, "rows_per_step": 16}
    if cell.theirs:
        learned, unseen = (jobs.labelled(file, labels) for file in files(cell, rows, test))
        theirs = rival(cell, "banking77", **train, rows=learned, test=unseen, classes=len(labels))
        return agreed([row["labels"] for row in unseen], theirs.pop("said")) | theirs | {"pass_seconds": theirs["seconds"] / passes}
    objective = {"name": "predict", "kind": "class", "labels": labels}
    found = tuned(cell, rows, test, method=cell.way, objective=objective, train=train)
    pass_seconds = found.numbers["seconds"] / passes
    return found.numbers | {"pass_seconds": pass_seconds} | classified(found, cell.place / "run-held-out.jsonl")


def rival(cell: Cell, work: str, **job: Any) -> dict[str, Any]:
    """What the rival's way of the same name found with the same seed."""
    return jobs.run(cell.rival, cell.place, work, way=cell.method, seed=cell.seed, **job)


def classified(found: Tuned, file: Path) -> dict[str, float]:
    """Accuracy and macro F1 of a head, in percent."""
    rows, predictor = rows_of(found, file), found.model.predictor
    said = [predictor.read(torch.from_numpy(each))[0] for each in outputs(found.model, [row.sequences[0] for row in rows])]
    right = [predictor.meaning.truth(row.sequences[0].beside["target"])[0] for row in rows]
    return agreed(right, said)


def agreed(right: list[Any], said: list[Any]) -> dict[str, float]:
    """Accuracy and macro F1 in percent."""
    hits = sum(a == b for a, b in zip(said, right, strict=True))
    return {"accuracy": 100 * hits / len(right), "macro_f1": 100 * f1_score(right, said, average="macro", zero_division=0)}


def e2e(cell: Cell) -> dict[str, float]:
    """Sentences from the facts about a restaurant, by lora on luthier-mini; all references of a set of facts count."""
    folder = DATA / "ft_e2e_nlg"
    pairs = [{"prompt": row["mr"], "completion": row["ref"]} for row in table(folder / "devset.csv")]
    asked: dict[str, list[str]] = {}
    for row in table(folder / "testset_w_refs.csv"):
        asked.setdefault(row["mr"], []).append(row["ref"])
    facts = drawn(sorted(asked), cell.count(100), 0)
    rows = drawn(pairs, cell.count(1500), cell.seed)
    test = [{"prompt": fact, "completion": asked[fact][0]} for fact in facts]
    train = {"epochs": 2, "rows_per_step": 16}
    if cell.theirs:
        learned, unseen = map(jobs.read_whole, files(cell, rows, test))
        prompts = [row["ids"][: next(i for i, label in enumerate(row["labels"]) if label >= 0)] for row in unseen]
        theirs = rival(cell, "e2e", **train, rows=learned, test=prompts, stop=jobs.stops())
        return texts_against(jobs.words(theirs.pop("said")), [asked[fact] for fact in facts]) | theirs
    found = tuned(cell, rows, test, method=cell.way, train=train)
    renderer = found.model.renderer
    prompts = [renderer.prompt_of(example) for example in examples(cell.place / "run-held-out.jsonl")]
    said = generate(found.model, prompts, max_tokens=80, stop=frozenset(renderer.end_tokens))
    texts = [renderer.decode([t for t in one.tokens if t not in renderer.end_tokens]).strip() for one in said]
    return found.numbers | texts_against(texts, [asked[fact] for fact in facts])


def texts_against(texts: list[str], references: list[list[str]]) -> dict[str, float]:
    """BLEU and chrF of a corpus with several references, by sacrebleu's defaults."""
    most = max(map(len, references))
    streams = [[one[min(i, len(one) - 1)] for one in references] for i in range(most)]
    return {"bleu": corpus_bleu(texts, streams).score, "chrf": corpus_chrf(texts, streams).score}


def chunks(text: str, size: int = 600) -> list[dict[str, str]]:
    return [{"text": text[at : at + size]} for at in range(0, len(text) - size, size)]


def shakespeare(cell: Cell) -> dict[str, float]:
    """A model of children's stories reads Shakespeare (stories260k, every weight); what it forgets of stories is measured beside."""
    plays = chunks((DATA / "txt_shakespeare" / "input.txt").read_text(encoding="utf-8"))
    stories = chunks((DATA / "txt_tinystories" / "tinystories_valid_part.txt").read_text(encoding="utf-8"))[: cell.count(40)]
    held_out = plays[-cell.count(100) :]
    rows = drawn(plays[: -len(held_out)], cell.count(1200), cell.seed)
    base, train = str(_bed.SHARED / "models" / "stories260k"), {"epochs": 1, "rows_per_step": 16}
    told = write(cell.place / "stories.jsonl", stories)
    if cell.theirs:
        learned, unseen, told_ids = (jobs.read_whole(file, base) for file in (*files(cell, rows, held_out), told))
        return rival(cell, "shakespeare", base=base, rate=1e-3, **train, rows=learned, test={"plays": unseen, "stories": told_ids})
    found = tuned(cell, rows, held_out, model=base, method=cell.way, objective="pretrain", train={**train, "learning_rate": 1e-3})
    before, numbers = load.load(base), {}
    for name, file in {"plays": cell.place / "run-held-out.jsonl", "stories": told}.items():
        rows = rows_of(found, file, learn="everything")
        numbers |= {f"{name}_before": nats(before, rows), f"{name}_after": nats(found.model, rows)}
    return found.numbers | numbers


def nats(model: Any, rows: list[Row]) -> float:
    """Surprise per token."""
    seen = likelihood(model, rows)
    return float(seen.nats_R.sum() / seen.weight_R.sum())


def preferences(cell: Cell) -> dict[str, float]:
    """Which of two answers people preferred, by dpo with lora on luthier-mini; the share of unseen pairs it gets right."""
    everything = json.loads((DATA / "ft_llamafactory" / "dpo_en_demo.json").read_text(encoding="utf-8"))
    pairs = [row for row in everything if len(json.dumps(row)) < (4000 if cell.scale > 0.1 else 1800)]
    test = pairs[-cell.count(50) :]
    rows = drawn(pairs[: -len(test)], cell.count(120), cell.seed)
    train = {"epochs": 2, "rows_per_step": 8}
    if cell.theirs:
        learned, unseen = (jobs.compared(file) for file in files(cell, rows, test))
        texts = [pair["texts"] for pair in learned]
        theirs = rival(cell, "preferences", share=dpo.Objective.rate, **train, rows=texts, test=unseen)
        return won(np.array(theirs.pop("gained"))) | theirs
    found = tuned(cell, rows, test, method=cell.way, objective="dpo", train=train)
    held_out = rows_of(found, cell.place / "run-held-out.jsonl")
    margins = []
    for on in (True, False):
        with found.method.active(found.model, on):
            margins.append(likelihood(found.model, held_out).margin_R)
    return found.numbers | won(margins[0] - margins[1])


def won(gained: np.ndarray) -> dict[str, float]:
    """Share of the pairs whose better answer became likelier than the worse one did, in percent, and by how much on average."""
    return {"reward_accuracy": 100 * float(np.mean(gained > 0)), "margin_nats": float(gained.mean())}


SMALL = {
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
"""The student: random weights with the tokenizer of its teacher, about a quarter of its size."""


def distillation(cell: Cell) -> dict[str, float]:
    """A student from random weights learns to write e2e sentences: alone, with a tuned teacher's distribution; or the teacher itself."""
    pairs = [{"prompt": row["mr"], "completion": row["ref"]} for row in table(DATA / "ft_e2e_nlg" / "devset.csv")]
    test, rows = pairs[-cell.count(300) :], drawn(pairs[: -cell.count(300)], cell.count(1000), cell.seed)
    train = {"epochs": 3, "rows_per_step": 16}
    if cell.way in ("teacher", "distilled"):
        teacher = tuned(cell, rows, test, name="teacher", method="lora", train=train)
        if cell.way == "teacher":
            return teacher.numbers | {"nats": nats(teacher.model, rows_of(teacher, cell.place / "teacher-held-out.jsonl"))}
    mini = load.load("luthier-mini")
    config = mini.config.to_dict() | SMALL | {"layer_types": None}
    small = load.fresh(config, renderer=mini.renderer, seed=cell.seed, dtype="float32", name="student")
    load.save(small, cell.place / "student")
    objective = {"name": "distill", "teacher": str(cell.place / "teacher"), "share": 0.5} if cell.way == "distilled" else "sft"
    more = {**train, "learning_rate": 3e-3}
    found = tuned(cell, rows, test, model=str(cell.place / "student"), method="full", objective=objective, train=more)
    return found.numbers | {"nats": nats(found.model, rows_of(found, cell.place / "run-held-out.jsonl"))}


def digits(cell: Cell) -> dict[str, float]:
    """Digits of 8 x 8 points by a vision network from random weights: 1,797 pictures, the last 300 held out."""
    from PIL import Image
    from sklearn.datasets import load_digits

    known = load_digits()
    cell.place.joinpath("pictures").mkdir(parents=True)
    rows = []
    for number, (picture, digit) in enumerate(zip(known.images, known.target, strict=True)):
        name = f"pictures/{number}.png"
        Image.fromarray((picture * 15.9).astype(np.uint8)).save(cell.place / name)
        rows.append({"image": name, "label": str(digit)})
    test, rest = rows[-cell.count(300) :], rows[: -cell.count(300)]
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}}
    return labelled(cell, VIT, processor, drawn(rest, cell.count(len(rest)), cell.seed), test, passes=10, rows_per_step=32, rate=3e-3)


def spoken(cell: Cell) -> dict[str, float]:
    """Spoken digits by an audio network from random weights: six people, five takes of each digit, the last take of each held out."""
    sounds = sorted((DATA / "au_fsdd_sample" / "recordings").glob("*.wav"))
    rows = [{"audio": str(file), "label": file.name[0]} for file in sounds]
    test = drawn([row for row in rows if row["audio"].endswith("_4.wav")], cell.count(60), 0)
    rest = drawn([row for row in rows if not row["audio"].endswith("_4.wav")], cell.count(240), cell.seed)
    processor = {"feature_extractor_type": "ASTFeatureExtractor", "num_mel_bins": 32, "max_length": 64}
    return labelled(cell, AST, processor, rest, test, passes=30, rows_per_step=16, rate=2e-3)


def labelled(
    cell: Cell, config: dict[str, Any], processor: dict[str, Any], rows: Rows, test: Rows, *, passes: int, rows_per_step: int, rate: float
) -> dict[str, float]:
    """Labels of pictures or sounds, learned by a network that begins from random weights."""
    raw, base = cell.place / "raw", cell.place / "base"
    raw.mkdir(parents=True)
    (raw / "config.json").write_text(json.dumps(config))
    (raw / "preprocessor_config.json").write_text(json.dumps(processor))
    load.save(load.fresh(config, renderer=Renderer.from_folder(raw), seed=cell.seed, dtype="float32", name="fresh"), base)
    train = {"epochs": passes, "rows_per_step": rows_per_step, "learning_rate": rate}
    found = tuned(cell, rows, test, model={"name": str(base), "dtype": "float32"}, method=cell.way, objective="predict", train=train)
    return found.numbers | classified(found, cell.place / "run-held-out.jsonl")


Rows = list[dict[str, Any]]

AST = {
    "model_type": "audio-spectrogram-transformer",
    "architectures": ["ASTModel"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "patch_size": 8,
    "frequency_stride": 8,
    "time_stride": 8,
    "max_length": 64,
    "num_mel_bins": 32,
}
VIT = {
    "model_type": "vit",
    "architectures": ["ViTModel"],
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 8,
    "patch_size": 2,
}


def packed(cell: Cell) -> dict[str, float]:
    """What the base takes of memory in 16, 8 and 4 bits, and what it then thinks of stories."""
    before = psutil.Process().memory_info().rss
    model = load.load(cell.model, dtype=cell.way)
    linears = sum(_bytes(linear) for linear in model.linears().values())
    whole = linears + sum(p.nbytes for path, p in model.network.named_parameters() if path.rpartition(".")[0] not in model.linears())
    stories = chunks((DATA / "txt_tinystories" / "tinystories_valid_part.txt").read_text(encoding="utf-8"))[: cell.count(40)]
    file = write(cell.place / "stories.jsonl", stories)
    surprise = nats(model, [Row(example.source, model.renderer.render(example, learn="everything")) for example in examples(file)])
    grown = (psutil.Process().memory_info().rss - before) / 2**20
    return {"linears_mb": linears / 2**20, "weights_mb": whole / 2**20, "resident_mb": grown, "nats": surprise}


def _bytes(thing: Any) -> int:
    """Of every tensor a linear holds, its scales included."""
    if isinstance(thing, torch.Tensor):
        return thing.nbytes
    if isinstance(thing, torch.nn.Module):
        inside = [*thing.parameters(), *thing.buffers()]
        scale = getattr(thing, "scale", None)
        return sum(map(_bytes, inside)) + (_bytes(scale) if scale is not None else 0)
    return sum(_bytes(value) for value in vars(thing).values() if isinstance(value, torch.Tensor) or hasattr(value, "absmax"))


WORKS: dict[str, tuple[Callable[[Cell], dict[str, float]], tuple[str, ...]]] = {
    "banking77": (banking77, ("full", "lora", "head", "bottleneck", "ia3", "prompt", "prefix")),
    "e2e": (e2e, ("lora",)),
    "shakespeare": (shakespeare, ("full",)),
    "preferences": (preferences, ("lora",)),
    "distillation": (distillation, ("alone", "distilled", "teacher")),
    "digits": (digits, ("full",)),
    "spoken": (spoken, ("full",)),
    "packed": (packed, ("bfloat16", "int8", "nf4")),
}
"""Every work with its ways."""

PEFT = ("lora", "ia3", "prompt", "prefix")
RIVALS: dict[str, tuple[str, ...]] = {
    "banking77": (*(f"{method} (PEFT)" for method in PEFT), "full (transformers)", "head (transformers)"),
    "e2e": ("lora (PEFT)",),
    "shakespeare": ("full (transformers)",),
    "preferences": ("lora (TRL)",),
}
"""Whose result stands beside ours: the method, and who tunes with it. PEFT has no `bottleneck`."""


def cells(works: Iterable[str], seeds: int, *, rivals: bool) -> Iterator[tuple[str, str, int]]:
    """Seeds outermost, so that a table cut short has all its lines. What a packed base takes has no chance in it."""
    for seed in range(seeds):
        for work in works:
            for way in (*WORKS[work][1], *(RIVALS.get(work, ()) if rivals else ())):
                if work != "packed" or seed == 0:
                    yield work, way, seed
