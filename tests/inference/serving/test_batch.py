"""Rows that come and go at any step, of any adapter, each answered as transformers answers it alone."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from luthier.core.errors import LuthierError, ResultError
from luthier.core.sequence import Sequence
from luthier.engine.score import score
from luthier.inference.serving import room as room_module
from luthier.inference.serving.batcher import Batcher
from luthier.inference.serving.crowd import Crowd
from luthier.models import slot
from luthier.models.model import Model

from ..test_generate import prompts
from .conftest import RANKS, Asking, Served, base, without_end

Alone = Callable[[str | None, list[int], int], list[int]]
NAMES = [None, *RANKS]


def equal(asking: Asking, alone: Alone) -> None:
    wanted = alone(asking.question.owner, asking.question.prompt, asking.question.limit)
    assert asking.tokens == without_end(wanted)
    assert asking.deltas()[-1].finish == ("stop" if without_end(wanted) != wanted else "length")


def test_rows_that_join_at_any_step_with_any_adapter_answer_as_if_alone(crowd: Crowd, alone: Alone) -> None:
    served, source = Served(crowd), random.Random(2)
    asking: list[Asking] = []
    for number, prompt in enumerate(prompts()):
        asking.append(served.ask(prompt, NAMES[number % 4], limit=source.randint(1, 14)))
        for _ in range(source.randint(0, 3)):
            served.batch.step()
    served.run()
    for one in asking:
        equal(one, alone)
    assert len({str(alone(name, prompts()[0], 12)) for name in NAMES}) == 4, "the adapters say different things"


def test_a_shared_beginning_is_read_once_and_shared_in_memory(crowd: Crowd, alone: Alone) -> None:
    served = Served(crowd)
    same = prompts()[:16]  # 60 tokens in common
    asking = [served.ask(prompt) for prompt in same]
    served.batch.step()
    assert served.room.read <= sum(map(len, same)) - 15 * 59
    assert len({tuple(one.rows[0].places[:60]) for one in asking}) == 1
    assert served.room.known.held <= 60 + sum(len(prompt) - 60 for prompt in same)
    served.run()
    for one in asking:
        equal(one, alone)
    before = served.room.read
    again = served.ask(same[3])
    served.run()
    assert served.room.read == before, "only the last token, which a row reads to write on"
    assert again.answering.usage.cached == len(same[3]) - 1
    equal(again, alone)


def test_a_turn_that_follows_reads_only_what_is_new(crowd: Crowd, alone: Alone) -> None:
    served = Served(crowd)
    first = served.ask(prompts()[0], "middle")
    served.run()
    longer = [*prompts()[0], *first.tokens, 9, 10, 11]
    second = served.ask(longer, "middle")
    served.run()
    assert second.answering.usage.cached >= len(longer) - 4 - 1
    equal(second, alone)
    other = served.ask(longer, "large")
    served.run()
    assert other.answering.usage.cached == 0
    equal(other, alone)


def test_long_prompts_are_read_in_pieces_while_others_write(crowd: Crowd, alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_module, "BESIDE_WRITERS", 16)
    served = Served(crowd)
    writer = served.ask(prompts()[16], limit=30, ends=frozenset())
    served.batch.step()
    long = (prompts()[0] * 4)[:200]
    reader = served.ask(long, "small")
    short = served.ask(prompts()[17], "small")
    steps = 0
    while not short.answering.over:
        written = writer.rows[0].written
        served.batch.step()
        steps += 1
        assert writer.rows[0].written == written + 1 or writer.answering.over, "nobody waits for a long prompt"
    assert steps < 20 and reader.rows[0].written == 0, "a short prompt overtakes a long one"
    served.run()
    equal(reader, alone)
    equal(short, alone)


def test_who_leaves_hurts_nobody(crowd: Crowd, alone: Alone) -> None:
    served = Served(crowd, most_rows=8)
    asking = [served.ask(prompt, NAMES[i % 4], limit=14) for i, prompt in enumerate(prompts())]
    leaving = asking[1::3]
    for i, one in enumerate(leaving):
        for _ in range(i):
            served.batch.step()
        one.answering.cancel()
    served.run()
    for one in asking:
        if one not in leaving:
            equal(one, alone)
        else:
            assert one.deltas() is not None and one.answering.over


def test_with_little_memory_rows_wait_go_out_and_come_back(crowd: Crowd, alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for about three rows: the rest waits, and those inside outgrow it because little is promised to each."""
    monkeypatch.setattr(room_module, "AHEAD", 1)
    sent: list[Any] = []
    served = Served(crowd, places=230)
    plain = served.room.send_out
    monkeypatch.setattr(served.room, "send_out", lambda row: (sent.append(row), plain(row)))
    source = random.Random(4)
    some = [[*(source.randrange(9, 512) for _ in range(50))] for _ in range(8)]
    asking = [served.ask(prompt, NAMES[i % 4], limit=40) for i, prompt in enumerate(some)]
    served.run()
    assert sent, "nobody had to go out: the test is too easy"
    for one in asking:
        equal(one, alone)


def test_keys_take_turns(crowd: Crowd) -> None:
    served = Served(crowd, most_rows=1)
    ended: list[str] = []
    for i in range(6):
        served.ask(prompts()[17], key="busy", limit=4, ends=frozenset()).answering.listen(_note(ended, f"busy {i}"))
    served.batch.step()
    served.ask(prompts()[17], key="calm", limit=4, ends=frozenset()).answering.listen(_note(ended, "calm"))
    served.run()
    assert ended.index("calm") <= 1, "one question does not wait for six of somebody else"


def _note(ended: list[str], name: str) -> Callable[[Any], None]:
    return lambda heard: ended.append(name) if heard is None else None


def test_sampling_does_not_depend_on_who_else_is_there(crowd: Crowd) -> None:
    def ask(served: Served) -> Asking:
        return served.ask(prompts()[2], "middle", temperature=0.9, top_p=0.95, seed=11, n=3, frequency_penalty=0.5)

    first = Served(crowd)
    by_itself = ask(first)
    first.run()
    second = Served(crowd)
    others = [second.ask(prompt, NAMES[i % 4], temperature=1.0, seed=i) for i, prompt in enumerate(prompts()[5:12])]
    second.batch.step()
    beside = ask(second)
    second.run()
    assert [row.tokens for row in beside.rows] == [row.tokens for row in by_itself.rows]
    assert len({tuple(row.tokens) for row in beside.rows}) == 3
    assert others[0].answering.over


@pytest.mark.parametrize("owner", [None, "large"])
def test_penalties_and_bias_follow_the_formula_step_by_step(crowd: Crowd, llama: Model, owner: str | None) -> None:
    """Against a plain loop: the whole sequence scored anew for every token, by transformers' layers."""
    from .conftest import tune

    model = base(llama)
    if owner:
        tune(model, owner).merge(model)
    prompt, settings = prompts()[16], {"presence_penalty": 1.1, "frequency_penalty": 0.6}
    bias = {40: 3.0, 41: -100.0}
    served = Served(crowd)
    found = served.ask(prompt, owner, limit=20, ends=frozenset(), logit_bias=bias, **settings)
    served.run()
    tokens, written = list(prompt), Counter[int]()
    for _ in range(20):
        x = last_scores(model, tokens)
        for token, value in bias.items():
            x[token] += value
        for token, count in written.items():
            x[token] -= count * settings["frequency_penalty"] + settings["presence_penalty"]
        tokens.append(int(x.argmax()))
        written[tokens[-1]] += 1
    assert found.tokens == tokens[len(prompt) :]


def last_scores(model: Model, tokens: list[int]) -> torch.Tensor:
    from luthier.models.sight import Sight

    positions = np.arange(len(tokens))
    sight = Sight(np.full(len(tokens), len(tokens)), positions)
    with torch.no_grad():
        states = model.states(tokens_T=torch.tensor(tokens), positions_T=torch.from_numpy(positions), sight=sight)
        return model.head()(states[-1]).float()


def test_log_probabilities_of_prompt_and_answer_are_the_engines(crowd: Crowd, llama: Model) -> None:
    served = Served(crowd)
    prompt = prompts()[16] * 20  # longer than a chunk of scores
    served.ask(prompt, limit=2)  # its beginning is known, and must be read again
    served.run()
    found = served.ask(prompt, echo=True, logprobs=2, limit=6, ends=frozenset())
    served.run()
    infos = [info for delta in found.deltas() for info in delta.tokens]
    assert [info.token for info in infos] == [*prompt, *found.tokens]
    assert infos[0].logprob is None and infos[0].top == ()
    weights = np.array([0.0] + [1.0] * (len(infos) - 1), np.float32)
    wanted = score(base(llama), [Sequence(np.array([info.token for info in infos], np.int32), weights)])[0]
    np.testing.assert_allclose([info.logprob for info in infos[1:]], wanted.logprobs_L, atol=2e-5)
    assert all(len(info.top) == 2 and info.top[0][2] >= info.top[1][2] for info in infos[1:])
    assert all((info.top[0][0] == info.token) == bool(hit) for info, hit in zip(infos[1:], wanted.hits_L, strict=True))


def test_echo_without_an_answer_only_reads(crowd: Crowd) -> None:
    served = Served(crowd)
    found = served.ask(prompts()[16], echo=True, logprobs=0, limit=0)
    quick = served.ask(prompts()[16], limit=0)
    served.run()
    first, last = found.deltas()
    assert len(first.tokens) == len(prompts()[16]) and last.finish == "length"
    assert [delta.finish for delta in quick.deltas()] == ["length"]


def test_time_that_is_up_ends_an_answer(crowd: Crowd, alone: Alone) -> None:
    served = Served(crowd)
    late, fine = served.ask(prompts()[0], seconds=0.0), served.ask(prompts()[0], seconds=3600)
    served.run()
    with pytest.raises(ResultError, match=r"not complete after 0 seconds, with 0 tokens written\. Allow more time"):
        late.deltas()
    equal(fine, alone)


def test_a_pass_that_fails_is_tried_row_by_row(crowd: Crowd, alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever the poisoned row is read, the pass fails; everybody else is answered as ever."""
    served = Served(crowd)
    asking = [served.ask(prompt, NAMES[i % 4]) for i, prompt in enumerate(prompts()[:12])]
    served.batch.step()
    poisoned = served.ask([*prompts()[0][:61], 499, 498, 497])
    plain = crowd.states

    def states(owners: Any, counts: Any, tokens: list[int], *rest: Any) -> torch.Tensor:
        if 498 in tokens:
            raise MemoryError("no room for this one")
        return plain(owners, counts, tokens, *rest)

    monkeypatch.setattr(crowd, "states", states)
    late = served.ask([*prompts()[0][:61], 77])
    served.run()
    with pytest.raises(LuthierError, match="MemoryError: no room for this one"):
        poisoned.deltas()
    for one in [*asking, late]:
        equal(one, alone)


def test_a_row_that_fails_hurts_nobody(crowd: Crowd, alone: Alone) -> None:
    served = Served(crowd)
    asking = [served.ask(prompt) for prompt in prompts()[:3]]
    broken = served.ask(prompts()[4], logit_bias={100_000: 1.0}, n=3)
    deaf = served.ask(prompts()[5])
    deaf.answering.listen(_fails)
    served.run()
    with pytest.raises(LuthierError):
        broken.deltas()
    assert deaf.answering.cancelled.is_set()
    for one in asking:
        equal(one, alone)


def _fails(heard: Any) -> None:
    raise RuntimeError("the listener broke")


def test_a_fault_of_the_engine_tells_everybody_and_the_next_are_served(crowd: Crowd, alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something that should never happen happens while a step is planned."""
    served = Served(crowd)
    batcher = Batcher(served.batch)
    ready, going = threading.Event(), threading.Event()
    plain = served.room.plan

    def plan() -> Any:
        if not ready.is_set():
            ready.set()
            going.wait(60)
            raise ZeroDivisionError("a bug")
        return plain()

    monkeypatch.setattr(served.room, "plan", plan)
    lost = [served.ask(prompt, enter=batcher.ask) for prompt in prompts()[:3]]
    assert ready.wait(60)
    late = served.ask(prompts()[3], enter=batcher.ask)
    going.set()
    for one in lost[:1]:
        with pytest.raises(LuthierError, match="ZeroDivisionError: a bug"):
            one.deltas()
    assert late.deltas()[-1].finish
    assert late.tokens == without_end(alone(None, prompts()[3], 12))
    batcher.close()
    assert served.batch.idle
    with pytest.raises(ResultError, match="shutting down"):
        served.ask(prompts()[3], enter=batcher.ask)


def test_everybody_is_told_when_the_engine_stops(crowd: Crowd) -> None:
    served = Served(crowd, most_rows=2)
    asking = [served.ask(prompt) for prompt in prompts()[:5]]
    served.batch.step()
    served.batch.drop(ResultError("over", code="closing"))
    assert served.batch.idle
    for one in asking:
        with pytest.raises(ResultError, match="over"):
            one.deltas()


def test_an_adapter_of_another_kind_reads_in_a_pass_of_its_own(llama: Model) -> None:
    """One that scales what a linear puts out: no low-rank sum, so it may not be stacked."""

    class Louder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.by = torch.nn.Parameter(torch.tensor(1.5))

        def forward(self, x: torch.Tensor, base: torch.nn.Module) -> torch.Tensor:
            return base(x) * self.by

    crowd = Crowd(base(llama))
    crowd.hang("louder", {path: Louder() for path in crowd.model.linears() if path.endswith("v_proj")})
    twin = crowd.twin()
    from .conftest import tune

    crowd.hang("middle", dict(tune(twin, "middle").deltas(twin)))
    served, plain = Served(crowd), base(llama)
    for path in plain.linears():
        if path.endswith("v_proj"):
            slot.place(plain.network, path).host("louder", Louder())
    names = ["louder", None, "middle", "louder"]
    asking = [served.ask(prompt, name, limit=8, ends=frozenset()) for prompt, name in zip(prompts(), names, strict=False)]
    served.run()
    with slot.answering(plain.network, "louder"):
        for one in (asking[0], asking[3]):
            tokens = list(one.question.prompt)
            for _ in range(8):
                tokens.append(int(last_scores(plain, tokens).argmax()))
            assert one.tokens == tokens[-8:]
