"""Fine-tuning with nothing hidden: the loop to read first, and the oracle the engine is tested against.

    python examples/tiny.py ROWS.jsonl MODEL_FOLDER --steps 20

It does to the weights what `luthier tune` does: LoRA, AdamW, warm-up and cosine, clipping, a step normalised by its weight. But one row
at a time, with plain transformers attention and all logits in memory. The engine computes the same numbers with shared beginnings, packs
and a chunked head, and never other ones: `tests/engine/test_exact.py` holds the two together.

Shapes: T tokens of a row, V vocabulary, R rank.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from luthier.core.example import Example
from luthier.core.sequence import Row
from luthier.data.read import read
from luthier.data.render import Renderer


class Lora(nn.Module):
    """A linear layer with a low-rank change beside it (Hu et al., arXiv 2106.09685, section 4.1).

          x ----------- W (frozen) ---------- + --> y = W x + scale * B (A x)
           \\__ A [R, in] __ B [out, R] _____/

    A starts random and B at zero, so the first step begins at the base model exactly.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base, self.scale = base, alpha / rank
        self.A = nn.Parameter(torch.empty(rank, base.in_features))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """The frozen answer plus the learned one."""
        change: Tensor = (x @ self.A.to(x.dtype).T) @ self.B.to(x.dtype).T
        return self.base(x) + self.scale * change


def add_lora(network: nn.Module, *, rank: int = 8, alpha: float = 16.0) -> list[nn.Parameter]:
    """Freeze the network and put a `Lora` around every linear layer but the head; returns what trains."""
    network.requires_grad_(False)
    places = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear) and name != "lm_head"]
    for name, linear in places:
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, Lora(linear, rank, alpha))
    return [p for p in network.parameters() if p.requires_grad]


def row_loss(network: nn.Module, tokens: Tensor, weights: Tensor) -> Tensor:
    """Summed loss of one path, in nats: ``-sum_t weights[t] * log p(tokens[t] | tokens[:t])``.

    Args:
        tokens: int64 ``[T]``. weights: float32 ``[T]``; the first counts nothing, because nothing precedes it.
    """
    logits_TV = network(input_ids=tokens[None], use_cache=False).logits[0].float()
    logprobs_TV = logits_TV[:-1].log_softmax(dim=-1)  # the state at t predicts the token at t + 1
    picked_T = logprobs_TV.gather(1, tokens[1:, None]).squeeze(1)
    return -(weights[1:] * picked_T).sum()


def step_gradient(network: nn.Module, rows: Iterable[Row]) -> float:
    """Gradient of the mean loss over all learned weight of a step, one row after another; returns that mean.

    Dividing by the weight of the *whole* step, not of each row, is what makes 8 rows at once equal to 8 times one row.
    """
    paths = [(torch.from_numpy(s.tokens).long(), torch.from_numpy(s.weights)) for row in rows for s in row.sequences]
    whole = sum(float(weights.sum()) for _, weights in paths)
    total = 0.0
    for tokens, weights in paths:
        loss = row_loss(network, tokens, weights) / whole
        loss.backward()
        total += loss.item()
    return total


def rate(step: int, steps: int, highest: float) -> float:
    """Linear warm-up over a twentieth of the steps, then half a cosine down to a tenth."""
    warm = math.ceil(0.05 * steps)
    if step < warm:
        return highest * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm - 1)
    return highest * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def train(network: nn.Module, rows: list[Row], *, steps: int, rows_per_step: int, highest: float) -> list[float]:
    """The loop. Returns the loss of every step."""
    trained = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=highest, betas=(0.9, 0.999), weight_decay=0.0)
    losses = []
    for step in range(steps):
        chosen = [rows[(step * rows_per_step + i) % len(rows)] for i in range(rows_per_step)]
        losses.append(step_gradient(network, chosen))
        nn.utils.clip_grad_norm_(trained, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = rate(step, steps, highest)
        optimiser.step()
        optimiser.zero_grad()
        print(f"step {step + 1}/{steps}  loss {losses[-1]:.4f}")
    return losses


def main() -> None:
    """Read rows, render them, learn from them."""
    parser = argparse.ArgumentParser(description="Fine-tuning with nothing hidden.")
    parser.add_argument("rows", type=Path, help="examples in any format Luthier reads")
    parser.add_argument("model", type=Path, help="folder of a model")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rows-per-step", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3)
    asked = parser.parse_args()
    torch.manual_seed(0)
    renderer = Renderer.from_folder(asked.model)
    network = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32)
    add_lora(network)
    examples = [item for item in read(asked.rows) if isinstance(item, Example)]
    rows = [Row(example.source, renderer.render(example)) for example in examples]
    train(network, rows, steps=asked.steps, rows_per_step=asked.rows_per_step, highest=asked.rate)


if __name__ == "__main__":
    main()
