"""From rows to answers: the right weights answer, proven before they do; others' models are not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sqlalchemy import select

from luthier.core.errors import DataError, LuthierError, NotFound, ResultError, SpecError
from luthier.core.example import Message
from luthier.inference.generate import generate
from luthier.inference.serving.ask import Asked, Delta
from luthier.jobs.bases import Bases, Bounds
from luthier.jobs.here import Here
from luthier.jobs.pinning import pin
from luthier.jobs.serving import Host
from luthier.models import slot
from luthier.models.load import load
from luthier.models.model import Model
from luthier.store.audit import Deputy
from luthier.store.database import Database
from luthier.store.runs import find as find_run
from luthier.store.tables.jobs import CheckpointPermission
from luthier.store.tables.models import TunedModel

from . import tuned
from .tuned import BASE, QUESTIONS

SMALL = SimpleNamespace(backend="here", cache_bytes=16 << 20, adapter_bytes=64 << 20, model_bytes=1 << 30, most_rows=16)


@pytest.fixture
def database_kind() -> str:
    """What is tested here does not depend on the kind."""
    return "sqlite"


@pytest.fixture(autouse=True)
def placed(tiny_base: Path, home: Path) -> None:
    tuned.place(tiny_base)


@pytest.fixture(scope="module")
def tiny(tiny_base: Path) -> Model:
    return load(str(tiny_base), dtype="float32")


@pytest.fixture
def project(database: Database) -> str:
    return tuned.project(database)


@pytest.fixture
def host(database: Database) -> Iterator[Host]:
    made = Host(database, None, SMALL)
    yield made
    made.close()


def chat(model: str, question: str = QUESTIONS[0], **changes: Any) -> Asked:
    return Asked(model=model, messages=[Message("user", question)], **{"temperature": 0.0, "max_tokens": 12, **changes})


def _here(host: Host) -> Here:
    assert isinstance(host.engine, Here)
    return host.engine


def said(host: Host, asked: Asked, project: str) -> str:
    return host.ask(asked, project).whole()[0].text


def wanted(model: Model, number: int | None, question: str, rank: int = 4) -> str:
    """What the adapter says in a batch of its own."""
    if number is not None:
        tuned.adapter(model, number, rank=rank)
    try:
        prompt = model.renderer.prompt([Message("user", question)])
        (found,) = generate(model, [prompt], max_tokens=12, stop=model.renderer.end_tokens)
        return model.renderer.decode(found.answer)
    finally:
        slot.restore(model.network)


def test_base_and_adapters_answer_at_once_each_with_its_own_weights(host: Host, database: Database, project: str, tiny: Model) -> None:
    names = {number: tuned.tuned(database, project, number, rank=rank, base=tiny) for number, rank in ((1, 4), (2, 16))}
    checkpoint = tuned.tuned(database, project, 3, base=tiny, step=40)
    under_way = {
        (number, question): host.ask(chat(name, question), project)
        for question in QUESTIONS
        for number, name in [*names.items(), (3, checkpoint)]
    }
    for (number, question), answering in under_way.items():
        assert answering.whole()[0].text == wanted(tiny, number, question, rank=16 if number == 2 else 4)
    assert len({wanted(tiny, number, QUESTIONS[0], rank=16 if number == 2 else 4) for number in (None, 1, 2, 3)}) == 4
    loaded = {offer.id: offer for offer in host.models(project)}
    assert all(loaded[name].loaded for name in names.values()) and loaded[BASE].owner == "luthier"
    assert loaded[names[1]].certificate["held"] and loaded[checkpoint].step == 40  # type: ignore[index]


def test_a_model_whose_every_weight_was_tuned_is_a_base_of_its_own(host: Host, database: Database, project: str) -> None:
    name = tuned.whole(database, project, 1)
    alone = load(str(find_run(_row(database, name).run).path / "model"), dtype="float32")
    assert said(host, chat(name), project) == wanted(alone, None, QUESTIONS[0])
    assert host.forget(name) and not host.model(name, project).loaded


def test_what_is_not_in_the_project_is_not_there(host: Host, database: Database, project: str, tiny: Model) -> None:
    name = tuned.tuned(database, project, 1, base=tiny, step=3)
    other = tuned.project(database, "other")
    for id in (name, "no-such-model", "../models", str(Path.cwd()), "ft:a:b:c:d"):
        with pytest.raises(NotFound, match="There is no model") as caught:
            host.ask(chat(id), other)
        assert caught.value.code == "unknown_model"
        with pytest.raises(NotFound):
            host.model(id, other)
    assert name not in {offer.id for offer in host.models(other)}
    with database.write() as session:
        session.add(CheckpointPermission(id="cp_1", model_id=name, project_id=other))
    assert said(host, chat(name), other) == said(host, chat(name), project)


def _row(database: Database, id: str) -> TunedModel:
    with database.read() as session:
        return session.scalars(select(TunedModel).where(TunedModel.id == id)).one()


def _probe(database: Database, id: str, change: Any) -> None:
    """Change the certificate of a model's run."""
    file = find_run(_row(database, id).run).certificate
    content = json.loads(file.read_text())
    change(content["probes"])
    file.write_text(json.dumps(content))


def test_an_adapter_that_does_not_answer_as_certified_is_refused(host: Host, database: Database, project: str, tiny: Model) -> None:
    """As if the file of another run had been copied over it."""
    name, other = (tuned.tuned(database, project, number, base=tiny) for number in (1, 2))
    mine, theirs = (find_run(_row(database, id).run).path / "adapter" for id in (name, other))
    shutil.rmtree(mine)
    shutil.copytree(theirs, mine)
    fine = host.ask(chat(other), project)
    with pytest.raises(ResultError, match="does not answer as certified") as caught:
        said(host, chat(name), project)
    assert caught.value.code == "certificate"
    noted = _row(database, name).certificate
    assert noted is not None and noted["held"] is False and "does not answer as certified" in noted["error"]["message"]
    assert fine.whole()[0].text == wanted(tiny, 2, QUESTIONS[0])


def test_a_template_that_differs_is_refused(host: Host, database: Database, project: str, tiny: Model) -> None:
    for step in (None, 5):
        name = tuned.tuned(database, project, 1, base=tiny, step=step)

        def longer(probes: Any) -> None:
            probes[0]["prompt"].insert(3, 77)

        _probe(database, name, longer)
        with pytest.raises(ResultError, match="Probe 1 renders to other tokens than at tuning: token 4") as caught:
            said(host, chat(name), project)
        assert caught.value.code == "template_drift"


def test_weights_of_an_earlier_pass_that_say_what_the_base_says_are_refused(
    host: Host, database: Database, project: str, tiny: Model
) -> None:
    name = tuned.tuned(database, project, 1, base=tiny, step=5)
    row = _row(database, name)
    method = tuned.adapter(tiny, 1)
    for delta in method.deltas(tiny).values():
        torch.nn.init.zeros_(delta.B)
    method.save(tiny, find_run(row.run).path / row.folder)
    slot.restore(tiny.network)
    with pytest.raises(ResultError, match="answer exactly as the base does"):
        said(host, chat(name), project)


def test_weights_that_are_gone_are_told(host: Host, database: Database, project: str, tiny: Model) -> None:
    name = tuned.tuned(database, project, 1, base=tiny)
    shutil.rmtree(find_run(_row(database, name).run).path / "adapter")
    with pytest.raises(NotFound, match="are not there any more"):
        said(host, chat(name), project)


def _pin(database: Database, name: str, pinned: bool) -> None:
    who = Deputy("key_x", "org_x", _row(database, name).project_id)
    pin(database, name, who, pinned=pinned)


def test_adapters_make_room_for_each_other_and_pinned_ones_stay(database: Database, project: str, tiny: Model) -> None:
    names = [tuned.tuned(database, project, number, base=tiny) for number in range(4)]
    _pin(database, names[0], True)
    one = sum(d.A.nbytes + d.B.nbytes for d in tuned.adapter(tiny, 1).deltas(tiny).values())
    slot.restore(tiny.network)
    host = Host(database, None, SimpleNamespace(**{**vars(SMALL), "adapter_bytes": 2 * one}))
    try:
        for number in (0, 1, 2, 3, 1):
            assert said(host, chat(names[number]), project) == wanted(tiny, number, QUESTIONS[0])
            ((_, resident),) = _here(host).bases
            assert resident.crowd.bytes <= 2 * one
        assert list(resident.crowd.members) == [names[0], names[1]]
        assert not any(name in resident.room.known._roots for name in names[2:]), "what they had read went with them"
        _pin(database, names[1], True)
        said(host, chat(names[1]), project)
        with pytest.raises(ResultError, match="Pinned models take all the memory"):
            said(host, chat(names[2]), project)
        _pin(database, names[1], False)
        said(host, chat(names[1]), project)
        under_way = [host.ask(chat(name, question), project) for question in QUESTIONS for name in names]
        for number, answering in enumerate(under_way):
            assert answering.whole()[0].text == wanted(tiny, number % 4, QUESTIONS[number // 4]), "more at once than there is room for"
    finally:
        host.close()


def test_a_forgotten_model_leaves_memory_unless_it_answers(host: Host, database: Database, project: str, tiny: Model) -> None:
    name = tuned.tuned(database, project, 1, base=tiny)
    answering = host.ask(chat(name, max_tokens=200, logit_bias={2: -100}), project)
    deltas = iter(answering)
    assert isinstance(next(deltas), Delta)
    deltas.close()  # type: ignore[attr-defined]
    assert answering.cancelled.is_set(), "who stops listening has cancelled"
    assert said(host, chat(name), project)
    assert host.forget(name)
    ((_, resident),) = _here(host).bases
    assert name not in resident.crowd.members


def test_wishes_that_cannot_be_met_are_told_at_once(host: Host, project: str) -> None:
    for asked, words in (
        (chat(BASE, temperature=3.0), "temperature = 3.0"),
        (chat(BASE, tools=[{"type": "function"}]), "A tool has no name"),
        (chat(BASE, tool_choice="required"), "no tool is offered"),
        (chat(BASE, logit_bias={99999: 1.0}), "not one of the model's 6,144"),
        (chat(BASE, format={"type": "nonsense"}), "The schema cannot be followed"),
    ):
        with pytest.raises(SpecError, match=words):
            host.ask(asked, project)
    with pytest.raises(DataError, match=r"the prompt has 1,50\d tokens, but tiny reads 1,024"):
        host.ask(Asked(model=BASE, prompt=[5] * 1500), project)


def test_vectors_are_mean_states_of_unit_length(host: Host, database: Database, project: str, tiny: Model) -> None:
    name = tuned.tuned(database, project, 1, base=tiny)
    texts: list[Any] = ["Where is my parcel?", "A cow is an animal. " * 30, [5, 6, 7]]
    for model, adapter in ((BASE, None), (name, 1)):
        vectors, tokens = host.embed(model, texts, project)
        ids = [tiny.renderer.parts.prefix + tiny.renderer.encode(text) if isinstance(text, str) else text for text in texts]
        assert tokens == sum(map(len, ids))
        if adapter:
            tuned.adapter(tiny, adapter)
        for vector, mine in zip(vectors, ids, strict=True):
            state = _states(tiny, mine).mean(0)
            torch.testing.assert_close(torch.tensor(vector), state / state.norm(), **_close(adapter))
        slot.restore(tiny.network)


def _close(adapter: int | None) -> dict[str, float]:
    """A bare base answers in the processor's number format, an adapter in that of its run, which is float32 here."""
    return {"atol": 2e-5, "rtol": 1e-4} if adapter else {"atol": 3e-2, "rtol": 1e-1}


def _states(model: Model, tokens: list[int]) -> torch.Tensor:
    import numpy as np

    from luthier.models.sight import Sight

    positions = np.arange(len(tokens))
    sight = Sight(np.full(len(tokens), len(tokens)), positions)
    with torch.no_grad():
        return model.states(tokens_T=torch.tensor(tokens), positions_T=torch.from_numpy(positions), sight=sight).float()


def test_answers_follow_schemas_and_forced_calls(host: Host, project: str) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9, "minimum": 0}}, "required": ["n"]}
    schema["additionalProperties"] = False
    value = json.loads(said(host, chat(BASE, format=schema, max_tokens=40), project))
    assert 0 <= value["n"] <= 9
    tools = [{"type": "function", "function": {"name": "look_up", "parameters": schema}}]
    for choice in ("required", {"type": "function", "function": {"name": "look_up"}}):
        (delta,) = host.ask(chat(BASE, tools=tools, tool_choice=choice, max_tokens=60), project).whole()
        (call,) = delta.tool_calls
        assert (delta.text, delta.finish, call.name) == ("", "tool_calls", "look_up") and 0 <= json.loads(call.arguments)["n"] <= 9


def test_several_answers_and_their_count(host: Host, project: str) -> None:
    answering = host.ask(chat(BASE, n=3, temperature=1.0, seed=4, max_tokens=6, logit_bias={2: -100}), project)
    answers = answering.whole()
    assert [answer.index for answer in answers] == [0, 1, 2] and len({answer.text for answer in answers}) == 3
    assert (answering.usage.completion, [answer.finish for answer in answers]) == (18, ["length"] * 3)


def test_closing_tells_whoever_comes_late(database: Database, project: str) -> None:
    host = Host(database, None, SMALL)
    under_way = host.ask(chat(BASE, max_tokens=5), project)
    host.close(grace_seconds=60)
    assert under_way.whole()[0].finish is not None, "what is under way ends well"
    with pytest.raises(ResultError, match="shutting down"):
        host.ask(chat(BASE), project)


def test_bases_make_room_for_each_other(tiny: Model) -> None:
    size = 2 * sum(p.nbytes for p in tiny.network.parameters())
    bases = Bases(Bounds(1 << 20, 1 << 20, int(2.5 * size), 4))

    def make() -> Model:
        return load(BASE, dtype="float32")

    for key in ("a", "b", "a", "c"):
        bases.get(key, make, bytes=size)
    assert [key for key, _ in bases] == ["a", "c"]

    def broken() -> Model:
        raise LuthierError("it does not load")

    for _ in range(2):
        with pytest.raises(LuthierError, match="does not load"):
            bases.get("broken", broken, bytes=0)
    bases.get("a", make, bytes=size, pinned=True)
    bases.get("e", make, bytes=size)
    assert [key for key, _ in bases] == ["a", "e"], "who is pinned stays"
    bases.get("c", make, bytes=size)
    resident = bases.get("a", make, bytes=size)
    other = bases.get("c", make, bytes=size)
    resident._asked["x"] += 1
    other._asked["x"] += 1
    with pytest.raises(ResultError, match=r"all of them are pinned or being asked, and this one needs 0\.\d GB more") as caught:
        bases.get("d", make, bytes=size)
    assert caught.value.code == "models_full"
    bases.close()
