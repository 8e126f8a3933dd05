"""Writing beside a source: as `Writing`, for networks of two stacks, which read a source once and remember by themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from luthier.core.errors import ModelError
from luthier.inference.pick import Picker
from luthier.inference.prefill import Prompt, media_of
from luthier.inference.reader import Reader, answering


class Beside:
    """Rows that write together: `step` gives each its next token.

    Args:
        prompts: as the renderer makes them.

    Raises:
        ModelError: rows answer with different adapters.
    """

    def __init__(self, reader: Reader, prompts: list[Prompt], picker: Picker, *, routed: bool = False) -> None:
        self.reader, self.model, self.picker = reader, reader.model, picker
        if routed:
            raise ModelError(
                "Rows of an encoder-decoder all answer with one adapter.", remedy="Ask each adapter by itself.", code="not_served"
            )
        with answering(self.model):
            media = [self.model.renderer.picture(reference) for prompt in prompts for reference in media_of(prompt)]
            self.writer = self.model.family.write_beside(self.model.network, [list(prompt) for prompt in prompts], media)
        self.tokens_B: Tensor | None = None

    def step(self) -> tuple[list[int], list[float]]:
        """Next token of each row and its log-probability."""
        with answering(self.model):
            states_BD = self.writer.states_BD if self.tokens_B is None else self.writer.next(self.tokens_B)
            self.tokens_B, logprobs_B = self.picker.pick(self.reader.logits(states_BD))
        return self.tokens_B.tolist(), logprobs_B.tolist()

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows only."""
        assert self.tokens_B is not None
        self.tokens_B = self.tokens_B[torch.tensor(rows, device=self.tokens_B.device)]
        with answering(self.model):
            self.writer.keep(rows)
        self.picker.keep(rows)

    def keep_said(self, said: list[int]) -> None:
        """Nothing is kept for later: another source has other states."""
