"""The model card: what the base is, what it read, how well it predicts, what it writes, what not to expect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plan import Plan

from luthier.core.example import Message
from luthier.core.files import write_text
from luthier.inference.generate import generate
from luthier.models.model import Model

BEGINNINGS = ["Once upon a time there was a", "To change your password,", "The price of a good depends on"]
QUESTIONS = [
    "What is the opposite of early?",
    "Write in capital letters: a quiet morning",
    "My ticket number is 4711. Which number is named?",
]


def write_card(model: Model, folder: Path, *, plan: Plan, facts: dict[str, Any], bits: float) -> None:
    """Write ``folder/model/README.md``.

    Args:
        facts: what `prepare.py` counted. bits: bits per byte on the held-out documents.
    """
    template = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
    values = {
        "PARAMETERS": f"{model.num_parameters:,}",
        "BITS": f"{bits:.3f}",
        "MINUTES": f"{plan.minutes:g}",
        "SPEED": f"{plan.tokens_per_second:,.0f}",
        "STEPS": f"{plan.pretrain_steps:,} steps on plain text and {plan.instruct_steps:,} on instructions",
        "MIX": mix(facts),
        "TEXTS": texts(model),
        "TALK": talk(model),
        "ATTRIBUTION": Path(__file__).with_name("attribution.md").read_text(encoding="utf-8").strip(),
    }
    for name, value in values.items():
        template = template.replace(f"@{name}@", value)
    write_text(folder / "model" / "README.md", template)


def mix(facts: dict[str, Any]) -> str:
    """The training text by group, as a table."""
    rows = [f"| {name} | {group['documents']:,} | {group['tokens'] / 1e6:.2f} |" for name, group in facts["train"]["groups"].items()]
    total = facts["train"]["total"]
    rows.append(f"| **all** | {total['documents']:,} | {total['tokens'] / 1e6:.2f} |")
    return "\n".join(["| group | documents | million tokens |", "|---|---:|---:|", *rows])


def texts(model: Model) -> str:
    """How it continues some beginnings, drawn at temperature 0.7."""
    prompts = [model.renderer.encode(text) for text in BEGINNINGS]
    written = generate(model, prompts, max_tokens=60, temperature=0.7, top_p=0.9, seed=1, stop=model.renderer.end_tokens)
    return "\n".join(f"> **{start}**{quoted(model, found.answer)}\n" for start, found in zip(BEGINNINGS, written, strict=True))


def talk(model: Model) -> str:
    """How it answers some questions, without chance."""
    prompts = [model.renderer.prompt([Message("user", text)]) for text in QUESTIONS]
    written = generate(model, prompts, max_tokens=40, stop=model.renderer.end_tokens)
    return "\n".join(f"> {question}  \n> **{quoted(model, found.answer)}**\n" for question, found in zip(QUESTIONS, written, strict=True))


def quoted(model: Model, tokens: list[int]) -> str:
    """Generated text that cannot break out of a quotation."""
    return model.renderer.decode(tokens).replace("\n", " ").replace("*", "\\*").replace("<", "&lt;")
