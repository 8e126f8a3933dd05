"""What a checkpoint's config says of the outputs of its own head."""

from __future__ import annotations

from typing import Any


def labels_of(config: Any, outputs: int) -> tuple[str, ...]:
    """A name for each output."""
    return tuple(str(config.id2label[number]) for number in range(outputs))


def name_outputs(config: Any, labels: tuple[str, ...], *, several: bool) -> None:
    """Say what the outputs of a new head are called: no label is a number, `several` of them may be true."""
    config.id2label = dict(enumerate(labels)) if labels else {0: "LABEL_0"}
    config.label2id = {label: number for number, label in config.id2label.items()}
    config.problem_type = "regression" if not labels else "multi_label_classification" if several else "single_label_classification"
