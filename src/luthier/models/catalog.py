"""Well-known open bases, and what tuning them costs in memory. The facts are in ``catalog.toml``; nothing here downloads.

Memory is a formula, not a measurement; `luthier tune` rehearses the real thing before it starts. In bytes, for P parameters of
which L lie in the linears of the blocks, width D, d blocks, vocabulary V and a pack of T = 1,024 tokens:

    the program         0.5e9                    Python, torch and transformers, measured
    frozen weights      2 P                      bfloat16
    adapter             16 A,  A = about 1 % of L at rank 16: fp32 weight, gradient and two moments of AdamW
    activations         34 T D d                 bfloat16, kept per block for backward (Korthikanti et al., arXiv 2205.05198, eq. 2 without
                                                 the attention scores, which are computed again)
    one chunk of logits 6 V 256                  bfloat16 scores and their fp32 softmax
    full                18 P                     bfloat16 copy, fp32 master, gradient, two moments; activations as above
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

from luthier.core.spec import Strict

BUNDLED = Path(__file__).parent / "bundled"
"""Bases that come inside the package."""

_PACK_TOKENS = 1024
_LOGIT_CHUNK = 256
_PROGRAM_BYTES = 500_000_000


class Entry(Strict):
    """One base of the catalog."""

    name: str
    """What Luthier calls it."""
    repo: str = ""
    """Its name on the Hugging Face hub; empty for a base inside the package."""
    parameters: int
    """Weights, a shared one counted once."""
    width: int
    """Numbers in a state."""
    blocks: int
    """Layers that repeat."""
    vocabulary: int
    """Tokens it knows."""
    context: int
    """Longest row in tokens."""
    licence: str
    """SPDX name, or the licence's own."""
    languages: str
    """What it was trained to write."""
    chat: bool
    """It has a chat template and follows instructions."""
    note: str = ""
    """One more thing worth knowing."""

    @property
    def bundled(self) -> bool:
        """Inside the package: no download."""
        return not self.repo

    @property
    def lora_bytes(self) -> int:
        """Estimated memory to tune with lora at rank 16."""
        in_blocks = self.parameters - self.vocabulary * self.width
        return int(2 * self.parameters + 16 * 0.01 * in_blocks) + self._working_bytes

    @property
    def full_bytes(self) -> int:
        """Estimated memory to tune every weight."""
        return 18 * self.parameters + self._working_bytes

    @property
    def _working_bytes(self) -> int:
        return _PROGRAM_BYTES + 34 * _PACK_TOKENS * self.width * self.blocks + 6 * self.vocabulary * _LOGIT_CHUNK


@cache
def catalog() -> dict[str, Entry]:
    """All entries by name, the bundled base first, then by size."""
    content = tomllib.loads((Path(__file__).parent / "catalog.toml").read_text(encoding="utf-8"))
    entries = [Entry(**fields) for fields in content["model"]]
    return {entry.name: entry for entry in sorted(entries, key=lambda e: (not e.bundled, e.parameters))}
