#!/usr/bin/env python3
"""Eight chats at once over four adapters: our engine beside serial `transformers generate` and beside transformers' continuous batching.

    python bench/serving.py [--model luthier-mini] [--dtype float32,bfloat16] [--repeat 3] [--save bench/results/serving.json]

Every chat has the same system prompt, questions of its own (banking77's customers) and one of four LoRA adapters of rank 8 to 64; each
answer has `--new` tokens, nothing ends it earlier, and is greedy. The second turn follows on the first answer.

`serial`       one chat after the other through PEFT's adapters and ``generate``, with its cache: what a script does with transformers.
`continuous`   ``generate_batch``, at its faster attention. It has no adapters of its own, so each adapter's chats are a batch of two.
`continuous, base only`   all eight chats in one batch, without adapters; ours beside it likewise.

Rounds are interleaved. The first round is compared token by token; where a row differs, the gap in nats between the two tokens is told as
plain transformers in float32 sees it. First tokens are timed from the moment all eight were asked. Then: an adapter added while eight chats
write (loaded, certificate replayed, hung in), and fifty adapters in memory.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import _bed
import torch
import transformers

from luthier.core.example import Example, Message, Source
from luthier.engine.arena import keep_memory
from luthier.evaluation import certificate
from luthier.inference.serving.ask import Answering, Asked, Delta
from luthier.inference.serving.resident import Adapter, Resident
from luthier.methods.lora import Method, Options
from luthier.models import slot
from luthier.models.find import find
from luthier.models.load import load
from luthier.models.machine import resident as resident_bytes
from luthier.models.model import Model

transformers.logging.set_verbosity_error()
SYSTEM = "You answer customers of a bank. Be brief, be polite, and never ask for a card number or a password. " * 6
RANKS = {"a": 8, "b": 16, "c": 32, "d": 64}
NO_END = -100.0
Chats = list[tuple[str | None, list[int]]]
"""Who answers, and the prompt."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="luthier-mini", help="folder or name")
    parser.add_argument("--dtype", default="float32,bfloat16")
    parser.add_argument("--chats", type=int, default=8)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--adapters", type=int, default=50, help="how many are held in memory at the end")
    parser.add_argument("--smoke", action="store_true", help="once, few tokens")
    parser.add_argument("--save", type=Path, help="JSON file; results are appended")
    asked = parser.parse_args()
    try:
        import peft  # noqa: F401
    except ImportError:
        sys.exit("skipped: peft is not installed")
    if not (_bed.SHARED / "data" / "ft_banking77").is_dir():
        sys.exit("skipped: shared/data/ft_banking77 is not here")
    if asked.smoke:
        asked.dtype, asked.chats, asked.new, asked.repeat, asked.adapters = "float32", 4, 4, 1, 5
    keep_memory()
    for dtype in asked.dtype.split(","):
        result = measure(asked, dtype)
        print(json.dumps(result, indent=1))
        if asked.save:
            _bed.append(asked.save, result)


def measure(asked: argparse.Namespace, dtype: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        folders = adapters(asked.model, dtype, Path(place), [*RANKS.items(), ("late", 16)])
        ours = Ours(asked.model, dtype, folders, asked.new)
        theirs = Theirs(asked.model, dtype, {name: folders[name] for name in RANKS}, asked.new)
        first = questions(ours.model, asked.chats)
        contenders: dict[str, Callable[[Chats], list[list[int]]]] = {
            "serial": theirs.serial,
            "continuous": theirs.grouped,
            "continuous, base only": theirs.base_only,
            "luthier": ours.answer,
            "luthier, base only": lambda chats: ours.answer([(None, prompt) for _, prompt in chats]),
        }
        said, seconds = {name: run(first) for name, run in contenders.items()}, {name: list[float]() for name in contenders}
        ours.first_tokens.clear()
        for turn in range(asked.repeat):
            for name, run in contenders.items():
                ours.forget()
                start = time.perf_counter()
                run(first)
                seconds[name].append(time.perf_counter() - start)
            del turn
        begun = sorted(ours.first_tokens)
        follow = second(ours.model, first, said["luthier"])
        start = time.perf_counter()
        ours.answer(follow)
        turn_seconds, turn_begun = time.perf_counter() - start, sorted(ours.first_tokens[len(begun) :])
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        tokens = asked.chats * asked.new
        result = {
            "model": Path(asked.model).name,
            "dtype": dtype,
            "chats": asked.chats,
            "adapters": RANKS,
            "prompt_tokens": sorted(len(prompt) for _, prompt in first),
            "new": asked.new,
            "seconds": {name: [round(value, 3) for value in values] for name, values in seconds.items()},
            "tokens_per_s": {name: round(tokens / value, 1) for name, value in medians.items()},
            "times_serial": round(medians["serial"] / medians["luthier"], 2),
            "times_continuous": round(medians["continuous"] / medians["luthier"], 2),
            "times_continuous_base_only": round(medians["continuous, base only"] / medians["luthier, base only"], 2),
            "differing_from_serial": theirs.differing(first, said["serial"], said["luthier"]),
            "equal_rows": {
                "continuous and serial": equal(said["continuous"], said["serial"]),
                "base only, ours and continuous": equal(said["luthier, base only"], said["continuous, base only"]),
            },
            "first_token_ms": {"p50": round(1e3 * quantile(begun, 0.5), 1), "p95": round(1e3 * quantile(begun, 0.95), 1)},
            "second_turn": {"seconds": round(turn_seconds, 3), "first_token_p50_ms": round(1e3 * quantile(turn_begun, 0.5), 1)},
            "hot_add": ours.hot_add(first),
            "many": ours.many(folders["b"], asked.adapters),
            "threads": torch.get_num_threads(),
            "versions": {"python": sys.version.split()[0], "torch": torch.__version__, "transformers": transformers.__version__},
        }
        ours.resident.close()
        return result


def adapters(name: str, dtype: str, place: Path, wanted: list[tuple[str, int]]) -> dict[str, Path]:
    """Adapters that say something else, on disk in PEFT's layout, each with its certificate."""
    model = load(name, dtype=dtype)
    examples = [Example(Source("probe", i), messages=[Message("user", text), Message("assistant", "")]) for i, text in enumerate(texts(20))]
    found = {}
    for number, (adapter, rank) in enumerate(wanted):
        method = Method(Options(rank=rank))
        method.attach(model, seed=number, name=adapter)
        for delta in method.deltas(model).values():
            torch.nn.init.normal_(delta.B, std=0.02, generator=torch.Generator().manual_seed(number))
        method.save(model, place / adapter / "adapter")
        certificate.write(model, method, examples, place / adapter)
        slot.restore(model.network)
        found[adapter] = place / adapter
    return found


def texts(count: int) -> list[str]:
    """Questions of customers."""
    rows = list(csv.reader((_bed.SHARED / "data" / "ft_banking77" / "test.csv").open(encoding="utf-8")))[1:]
    return [text for text, _ in rows[:: len(rows) // count]][:count]


def questions(model: Model, chats: int) -> Chats:
    names = list(RANKS)
    prompts = [model.renderer.prompt([Message("system", SYSTEM), Message("user", text)]) for text in texts(chats)]
    return [(names[i % len(names)], prompt) for i, prompt in enumerate(prompts)]


def second(model: Model, first: Chats, said: list[list[int]]) -> Chats:
    """The next turn of every chat."""
    ends = model.renderer.encode("<|im_end|>\n<|im_start|>user\nThank you. And how long will it take?<|im_end|>\n<|im_start|>assistant\n")
    return [(name, [*prompt, *tokens, *ends]) for (name, prompt), tokens in zip(first, said, strict=True)]


class Ours:
    """The engine as the service runs it."""

    def __init__(self, name: str, dtype: str, folders: dict[str, Path], new: int) -> None:
        self.model, self.folders, self.new = load(name, dtype=dtype), folders, new
        self.resident = Resident(self.model, cache_bytes=256 << 20, adapter_bytes=4 << 30)
        self.first_tokens: list[float] = []
        self.ends = self.model.renderer.end_tokens

    def adapter(self, name: str | None, folder: Path | None = None) -> Adapter | None:
        if name is None:
            return None
        home = folder or self.folders[name]

        def proven(twin: Model) -> dict[str, Any]:
            method = Method.load(twin, home / "adapter", name=name)
            certificate.replay(twin, method, home)
            return dict(method.deltas(twin))

        return Adapter(name, proven)

    def ask(self, name: str | None, prompt: list[int], listen: Callable[[Any], None], adapter: Adapter | None = None) -> Answering:
        asked = Asked(
            model=name or "base", prompt=prompt, temperature=0, max_tokens=self.new, logit_bias=dict.fromkeys(self.ends, NO_END), logprobs=0
        )
        answering = self.resident.ask(asked, Answering(asked.model), adapter or self.adapter(name))
        answering.listen(listen)
        return answering

    def answer(self, chats: Chats) -> list[list[int]]:
        said: list[list[int]] = [[] for _ in chats]
        over = threading.Semaphore(0)
        start = time.perf_counter()

        def listener(i: int) -> Callable[[Any], None]:
            def heard(item: Any) -> None:
                if isinstance(item, Delta):
                    if not said[i]:
                        self.first_tokens.append(time.perf_counter() - start)
                    said[i] += [info.token for info in item.tokens]
                else:
                    assert item is None, item
                    over.release()

            return heard

        for i, (name, prompt) in enumerate(chats):
            self.ask(name, prompt, listener(i))
        for _ in chats:
            over.acquire()
        return said

    def forget(self) -> None:
        """What was read: every round reads its prompts anew."""
        room = self.resident.room
        self.resident.batcher.between(lambda: room.known.make_room(room.pool.size)).result()

    def hot_add(self, chats: Chats) -> dict[str, float]:
        """From asking for an adapter that is on disk to its first token, and the longest pause of those who write meanwhile."""
        moments: list[float] = []
        enough, over = threading.Event(), threading.Semaphore(0)
        begun = time.perf_counter()

        def beside(item: Any) -> None:
            if isinstance(item, Delta):
                moments.append(time.perf_counter() - begun)
                if len(moments) > 8 * len(chats):
                    enough.set()
            else:
                over.release()

        new, self.new = self.new, max(self.new, 400 if self.new > 8 else 16)
        writing = [self.ask(name, prompt, beside) for name, prompt in chats]
        enough.wait(60)
        start, first = time.perf_counter(), threading.Event()
        self.ask("late", chats[0][1], lambda item: first.set())
        first.wait(60)
        added = time.perf_counter() - start
        for answering in writing:
            answering.cancel()
        for _ in writing:
            over.acquire()
        self.new = new
        gaps = [b - a for a, b in pairwise(moments) if a + begun > start]
        before = [b - a for a, b in pairwise(moments) if a + begun < start]
        return {
            "to_first_token_ms": round(1e3 * added, 1),
            "longest_pause_of_others_ms": round(1e3 * max(gaps, default=0.0), 1),
            "longest_pause_before_ms": round(1e3 * max(before, default=0.0), 1),
        }

    def many(self, folder: Path, count: int) -> dict[str, float]:
        """So many adapters of rank 16 in memory, each asked once."""
        before, prompt = resident_bytes(), self.model.renderer.prompt([Message("user", "Hello?")])
        new, self.new = self.new, 1
        for number in range(count):
            over = threading.Event()
            name = f"many{number}"
            self.ask(name, prompt, lambda item, over=over: over.set() if item is None else None, self.adapter(name, folder))  # type: ignore[misc]
            over.wait(60)
        self.new = new
        crowd = self.resident.crowd
        return {
            "adapters": len(crowd.members),
            "mb_of_adapters": round(crowd.bytes / 1e6, 1),
            "mb_of_process_more": round((resident_bytes() - before) / 1e6, 1),
        }


class Theirs:
    """transformers, with PEFT's adapters."""

    def __init__(self, name: str, dtype: str, folders: dict[str, Path], new: int) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(find(name), dtype=getattr(torch, dtype)).eval()
        self.plain = AutoModelForCausalLM.from_pretrained(find(name), dtype=getattr(torch, dtype)).eval()
        first, *others = folders.items()
        self.network: Any = PeftModel.from_pretrained(base, str(first[1] / "adapter"), adapter_name=first[0])
        for adapter, folder in others:
            self.network.load_adapter(str(folder / "adapter"), adapter_name=adapter)
        self.network.eval()
        self.new, self.dtype = new, dtype
        self.ends: int | list[int] = self.plain.generation_config.eos_token_id or self.plain.config.eos_token_id

    @torch.no_grad()
    def serial(self, chats: Chats) -> list[list[int]]:
        said = []
        for name, prompt in chats:
            self.network.set_adapter(name)
            ids = torch.tensor([prompt])
            out = self.network.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self.new,
                min_new_tokens=self.new,
                do_sample=False,
                eos_token_id=self.ends,
                pad_token_id=0,
            )
            said.append(out[0, len(prompt) :].tolist())
        return said

    def grouped(self, chats: Chats) -> list[list[int]]:
        """A batch for each adapter: the batcher knows none."""
        said: dict[int, list[int]] = {}
        for adapter in RANKS:
            mine = [i for i, (name, _) in enumerate(chats) if name == adapter]
            if mine:
                self.network.set_adapter(adapter)
                said |= dict(zip(mine, self._batch(self.network.base_model.model, [chats[i][1] for i in mine]), strict=True))
        return [said[i] for i in range(len(chats))]

    def base_only(self, chats: Chats) -> list[list[int]]:
        return self._batch(self.plain, [prompt for _, prompt in chats])

    def _batch(self, network: Any, prompts: list[list[int]]) -> list[list[int]]:
        from transformers import GenerationConfig
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        network.set_attn_implementation("sdpa")
        config = ContinuousBatchingConfig(
            num_blocks=64, page_size=32, max_batch_tokens=2048, max_requests_per_batch=len(prompts), auto_switch_to_flash=False
        )
        settings = GenerationConfig(max_new_tokens=self.new, do_sample=False, eos_token_id=-1, pad_token_id=0)
        out = network.generate_batch(prompts, settings, config, warmup=False)
        return [list(one.generated_tokens) for one in out.values()]

    @torch.no_grad()
    def differing(self, chats: Chats, left: list[list[int]], right: list[list[int]]) -> dict[str, Any]:
        """Rows that differ, and for each the gap in nats between the two tokens at the first difference."""
        gaps, judge = [], self.network.float()
        for (name, prompt), a, b in zip(chats, left, right, strict=True):
            if a != b:
                judge.set_adapter(name)
                place = next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
                scores = judge(torch.tensor([prompt + a[:place]])).logits[0, -1].float()
                gaps.append(round(abs(float(scores[a[place]] - scores[b[place]])), 4))
        return {"rows": len(gaps), "of": len(chats), "gaps": sorted(gaps)}


def equal(left: list[list[int]], right: list[list[int]]) -> int:
    return sum(a == b for a, b in zip(left, right, strict=True))


def quantile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


if __name__ == "__main__":
    main()
