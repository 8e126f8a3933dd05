"""Short conversations for the second phase: many everyday kinds, written by our own code from a fixed seed.

    python recipes/mini/instruct.py FILE     write them as OpenAI chat JSONL, to look at

They teach the form, not knowledge: read the system turn, answer, stop. The kinds are the files of ``tasks/``; none is the bundled
sample's task.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import random
import sys
from pathlib import Path
from typing import Any

import tasks
from words import Task

from luthier.core.example import Example, Message, Source
from luthier.core.files import write_text

COUNT = 8000


def conversations(*, count: int = COUNT, seed: int = 3) -> list[Task]:
    """`count` different tasks, kinds mixed by their shares."""
    dice = random.Random(seed)
    kinds = [importlib.import_module(f"tasks.{found.name}") for found in pkgutil.iter_modules(tasks.__path__)]
    shares = [kind.SHARE for kind in kinds]
    made: dict[tuple[str, str], Task] = {}
    while len(made) < count:
        task: Task = dice.choices(kinds, shares)[0].make(dice)
        made.setdefault((task.system, task.user), task)
    return list(made.values())


def example(task: Task, number: int) -> Example:
    """A task as the renderer reads it."""
    asked = [Message("system", task.system)] if task.system else []
    turns = [*asked, Message("user", task.user), Message("assistant", task.answer, tool_calls=task.calls)]
    return Example(Source("instruct", number), messages=turns, tools=task.tools)


def examples(*, count: int = COUNT, seed: int = 3) -> list[Example]:
    """The tasks as examples."""
    return [example(task, number + 1) for number, task in enumerate(conversations(count=count, seed=seed))]


def as_json(task: Task) -> dict[str, Any]:
    """A task as a row of OpenAI chat format."""
    asked = [{"role": "system", "content": task.system}] if task.system else []
    said: dict[str, Any] = {"role": "assistant", "content": task.answer or None} | ({"tool_calls": task.calls} if task.calls else {})
    row: dict[str, Any] = {"messages": [*asked, {"role": "user", "content": task.user}, said]}
    return row | ({"tools": task.tools} if task.tools else {})


if __name__ == "__main__":
    write_text(Path(sys.argv[1]), "".join(json.dumps(as_json(t), ensure_ascii=False) + "\n" for t in conversations()))
