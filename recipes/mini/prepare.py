"""Turn the corpus into token files for the bundled base.

    python recipes/mini/prepare.py SHARED WORK

Writes into WORK/tokens:
    tokens.npy   uint16 [T]: all documents of the mix, shuffled, each followed by <|endoftext|>
    tokens-cuts.npy   int64 [rows + 1]: row i is tokens[cuts[i]:cuts[i + 1]], never reaching across a document's end
    heldout.npy, heldout-cuts.npy   the same for the held-out documents
    facts.json   counts: documents, bytes and tokens of every group

Three documents of four are cut into rows of 512 tokens, the fourth into rows of 1,024: attention over short rows is cheaper (a quarter more
tokens a second), and the long ones teach the far positions.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections import Counter
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from corpus import Document, documents
from numpy.typing import NDArray
from pieces import END
from tokenizers import Tokenizer

from luthier.core.files import new_folder, write_json

LONG, SHORT = 1024, 512


def tokenised(texts: list[str], tokenizer: Tokenizer) -> list[NDArray[np.uint16]]:
    """Token ids of every text, each ended by <|endoftext|>. The vocabulary of 6,144 fits 16 bits."""
    return [np.array([*e.ids, END], np.uint16) for e in tokenizer.encode_batch(texts, add_special_tokens=False)]


def cuts(lengths: list[int], *, contexts: tuple[int, ...]) -> NDArray[np.int64]:
    """Where rows begin and end when documents of `lengths` tokens lie end to end: at each document's end and inside it every so often.

    Args:
        contexts: longest row of the first document, of the second, and so on, over again.

    >>> cuts([5, 3], contexts=(4, 2)).tolist()
    [0, 4, 5, 7, 8]
    """
    marks, start = [0], 0
    for length, context in zip(lengths, cycle(contexts)):
        marks += [*range(start + context, start + length, context), start + length]
        start += length
    return np.array(marks, np.int64)


def held_out(shared: Path) -> list[Document]:
    """The documents that no training row comes from."""
    with gzip.open(shared / "corpus/heldout.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [Document(json.loads(line)["source"], json.loads(line)["text"]) for line in lines]


def facts(read: list[Document], tokens: list[NDArray[np.uint16]]) -> dict[str, Any]:
    """Documents, bytes and tokens by group, and altogether."""
    count: dict[str, Counter[str]] = {}
    for document, ids in zip(read, tokens, strict=True):
        group = count.setdefault(document.group, Counter())
        group.update(documents=1, bytes=len(document.text.encode()), tokens=len(ids))
    total = sum(count.values(), Counter())
    return {"groups": {k: dict(v) for k, v in sorted(count.items())}, "total": dict(total)}


def write(folder: Path, name: str, tokens: list[NDArray[np.uint16]], *, contexts: tuple[int, ...]) -> None:
    """One token file and its row cuts."""
    np.save(folder / f"{name}.npy", np.concatenate(tokens))
    np.save(folder / f"{name}-cuts.npy", cuts([len(t) for t in tokens], contexts=contexts))


def main() -> None:
    """Read, tokenise, write; prints tokens and bytes per token."""
    parser = argparse.ArgumentParser(description="Tokenise the corpus of luthier-mini.")
    parser.add_argument("shared", type=Path, help="folder that holds corpus/ and data/")
    parser.add_argument("work", type=Path, help="work folder; WORK/tokens is made")
    parser.add_argument("--model", type=Path, default=Path("src/luthier/models/bundled/luthier-mini"), help="folder with tokenizer.json")
    asked = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(asked.model / "tokenizer.json"))
    train, valid = documents(asked.shared), held_out(asked.shared)
    train_tokens, valid_tokens = (tokenised([d.text for d in part], tokenizer) for part in (train, valid))
    found = {"train": facts(train, train_tokens), "heldout": facts(valid, valid_tokens)}
    with new_folder(asked.work / "tokens") as folder:
        write(folder, "tokens", train_tokens, contexts=(SHORT, SHORT, SHORT, LONG))
        write(folder, "heldout", valid_tokens, contexts=(LONG,))
        write_json(folder / "facts.json", found)
    for name, part in found.items():
        total = part["total"]
        print(f"{name}: {total['documents']} documents, {total['tokens']:,} tokens, {total['bytes'] / total['tokens']:.2f} bytes per token")


if __name__ == "__main__":
    main()
