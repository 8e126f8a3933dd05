"""Which tuners of the PEFT library the door opens to (``peft.py``), and what to take in place of others."""

from __future__ import annotations

KINDS = frozenset(
    {"boft", "deft", "delora", "fourierft", "glora", "gralora", "hira", "hra", "loha", "lokr", "miss", "oft", "peanut", "psoft", "randlora"}
    | {"road", "shira", "tinylora", "vblora", "vera", "waveft"}
)
"""Tuners of PEFT 0.21 that train, swap, save and load here; ``tests/methods/test_peft_door.py`` tries each."""

OTHERWISE = {
    "adalora": "take method lora with ranks: AdaLoRA would have to be told of every step",
    "ia3": "take method ia3",
    "ln_tuning": "take method freeze with moving=['*norm*']",
    "lora": "take method lora",
    "p_tuning": "take method prefix with a projection",
    "prefix_tuning": "take method prefix",
    "prompt_tuning": "take method prompt",
    "xlora": "combine adapters (docs/methods.md)",
}
"""What to take in place of some that do not."""

BEGINS_ELSEWHERE = frozenset({"fourierft", "vblora"})
"""Those that change the answers before the first step: their numbers begin at random."""
