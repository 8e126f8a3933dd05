"""Bits per byte of any model on the held-out documents: a figure that does not depend on the tokenizer.

    python recipes/mini/bits_per_byte.py MODEL SHARED [--threads 1]

Every document is read in windows of the model's context; a window after the first begins with `OVERLAP` tokens that are read again
without being counted. Nothing precedes a document's first token, so it is not counted, nor are its bytes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from prepare import held_out

from luthier.core.sequence import Sequence as Tokens
from luthier.engine.score import score
from luthier.models import load
from luthier.models.model import Model

OVERLAP = 256
"""Tokens of context that a counted token of a long document has at least."""


def windows(tokens: Sequence[int], *, context: int, overlap: int = OVERLAP) -> Iterator[Tokens]:
    """A document's tokens as paths in which every token but the first is counted exactly once."""
    start, counted = 0, 1
    while counted < len(tokens):
        end = min(start + context, len(tokens))
        weights = np.zeros(end - start, np.float32)
        weights[counted - start :] = 1.0
        yield Tokens(np.array(tokens[start:end], np.int32), weights)
        start, counted = max(end - overlap, start + 1), end


def bits_per_byte(model: Model, texts: Sequence[str]) -> float:
    """Mean information of a byte of `texts`, in bits, as `model` sees them."""
    paths, num_bytes = [], 0
    for text in texts:
        tokens = model.renderer.encode(text)
        num_bytes += len(text.encode()) - len(model.renderer.decode(tokens[:1]).encode())
        paths += list(windows(tokens, context=model.context, overlap=min(OVERLAP, model.context // 4)))
    nats = -sum(found.total for found in score(model, paths))
    return nats / math.log(2) / num_bytes


def main() -> None:
    """Print the figure."""
    parser = argparse.ArgumentParser(description="Bits per byte on the held-out documents.")
    parser.add_argument("model", help="name or folder of a model")
    parser.add_argument("shared", type=Path, help="folder that holds corpus/")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(f"{bits_per_byte(load.load(asked.model), [d.text for d in held_out(asked.shared)]):.4f} bits per byte")


if __name__ == "__main__":
    main()
