"""Models that answer on another engine: adapters are handed over when first asked for, and held against their certificate from outside.

The engine renders conversations by its own template and computes with its own kernels, so both are checked through the wire: a certified
conversation must have as many tokens there as here, and the certified tokens the log-probabilities they had. Where an engine tells no
log-probabilities of a prompt (llama.cpp's does not), the model's row says that its weights could not be checked.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from luthier.core.errors import ResultError
from luthier.evaluation import certificate
from luthier.inference.serving.ask import Answering, Asked
from luthier.jobs.elsewhere import Elsewhere
from luthier.jobs.offers import noted, weights
from luthier.store.database import Database
from luthier.store.runs import RunFolder
from luthier.store.runs import find as find_run
from luthier.store.tables.models import TunedModel

PROBES = 3
"""Certified conversations sent to another engine at each hand-over: each costs two requests."""


class There:
    """An engine of `serving.Host`."""

    def __init__(self, database: Database, engine: Elsewhere) -> None:
        self.database, self.engine = database, engine
        self._handed: set[str] = set()
        self._handing = threading.Lock()

    def names(self) -> set[str]:
        """What the engine serves; among it may be tuned models that were handed over before."""
        return set(self.engine.models())

    def ask(self, asked: Asked, row: TunedModel | None) -> Answering:
        """See `serving.Host.ask`."""
        self._ready(row)
        return self.engine.ask(asked, Answering(asked.model))

    def embed(self, model: str, inputs: Sequence[str | list[int]], row: TunedModel | None, *, key: str) -> tuple[list[list[float]], int]:
        """See `serving.Host.embed`."""
        self._ready(row)
        return self.engine.embed(model, inputs)

    def loaded(self) -> set[str]:
        """What the engine serves now."""
        return self.names()

    def forget(self, id: str) -> bool:
        """See `serving.Host.forget`."""
        with self._handing:
            if id in self._handed:
                self._handed.remove(id)
                self.engine.let_go(id)
        return True

    def figures(self) -> dict[str, dict[str, float]]:
        """None: the engine has metrics of its own."""
        return {}

    def close(self, grace_seconds: float) -> None:
        """See `serving.Host.close`."""
        self.engine.close()

    def _ready(self, row: TunedModel | None) -> None:
        """Have a tuned model there, once; whoever asks meanwhile waits.

        Raises:
            LuthierError: it cannot be handed over, or does not answer as certified; the next one to ask tries again.
        """
        if row is None:
            return
        with self._handing:
            if row.id in self._handed:
                return
            run = find_run(row.run)
            with noted(self.database, row) as outcome:
                if row.id not in self.engine.models():
                    self.engine.hand_over(row.id, weights(run, row))
                try:
                    outcome |= self._proof(row, run)
                except ResultError:
                    self.engine.let_go(row.id)
                    raise
            self._handed.add(row.id)

    def _proof(self, row: TunedModel, run: RunFolder) -> dict[str, Any]:
        """What could be checked of the model there.

        Raises:
            ResultError: it renders or answers otherwise than certified.
        """
        if not run.certificate.is_file():
            return {"held": None, "why": "Its run has no certificate yet."}
        content = certificate.read(run.path)
        distances = []
        for number, probe in enumerate(content["probes"][:PROBES], 1):
            self._same_length(row, probe, number)
            if row.step is None:
                tokens, wanted = probe["tuned"]["tokens"], probe["tuned"]["logprobs"]
                found = self.engine.logprobs(row.id, probe["prompt"] + tokens, len(tokens))
                if found is None:
                    return {"held": None, "why": "The engine tells no log-probabilities of prompts, so its weights could not be checked."}
                distances += [abs(a - b) for a, b in zip(found, wanted, strict=True)]
        mean, most = certificate.TOLERANCE["bfloat16"]
        if distances and not (np.mean(distances) <= mean and max(distances) <= most):
            what = f"On the other engine {row.id} does not answer as certified: log-probabilities lie up to {max(distances):.2f} apart"
            what += f", {np.mean(distances):.3f} in the mean (allowed {most:g} and {mean:g})."
            raise ResultError(what, where="backend", remedy="It ignores the adapter, or runs another base.", code="certificate")
        return {"held": True}

    def _same_length(self, row: TunedModel, probe: dict[str, Any], number: int) -> None:
        example = certificate.example_of(probe)
        if example.form != "chat":
            return
        messages = [message for message in example.messages if message.role != "assistant" or message.content or message.tool_calls]
        there, here = self.engine.prompt_tokens(row.id, messages, example.tools), len(probe["prompt"])
        if there != here:
            what = f"Probe {number} has {there} tokens as the other engine renders it, and {here} as it was tuned."
            remedy = "Give that engine the chat template saved with the run (vLLM: --chat-template)."
            raise ResultError(what, where="backend", remedy=remedy, code="template_drift")
