"""Another engine in our place: our own server plays it, over real sockets; and a small one that loads adapters as vLLM does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from luthier.core.errors import LuthierError, NotFound, ResultError, SpecError
from luthier.core.example import Message
from luthier.inference.serving.ask import Answering, Asked, Delta
from luthier.jobs.elsewhere import Elsewhere
from luthier.jobs.serving import Host
from luthier.models.load import load
from luthier.models.model import Model
from luthier.store.runs import find as find_run
from luthier.store.tables.tenants import Project
from server.live import Live, listening

from . import tuned
from .tuned import BASE, QUESTIONS


@pytest.fixture
def live(tmp_path: Path, tiny_base: Path, home: Path) -> Iterator[Live]:
    """The other engine: a whole Luthier."""
    tuned.place(tiny_base)
    yield from listening(tmp_path / "service", worker=False)


@pytest.fixture
def engine(live: Live) -> Iterator[Elsewhere]:
    made = Elsewhere(f"{live.url}/v1", key=live.secret)
    yield made
    made.close()


@pytest.fixture(scope="module")
def tiny(tiny_base: Path) -> Model:
    return load(str(tiny_base), dtype="float32")


def project_of(live: Live) -> str:
    with live.service.database.read() as session:
        return str(session.query(Project).one().id)


def chat(**changes: Any) -> Asked:
    return Asked(model=BASE, messages=[Message("user", QUESTIONS[0])], **{"temperature": 0.0, "max_tokens": 10, **changes})


SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "maximum": 9, "minimum": 0}},
    "required": ["n"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": SCHEMA}}


@pytest.mark.parametrize(
    "asked",
    [
        chat(),
        chat(n=2, temperature=0.9, seed=5, stop=["e"], presence_penalty=0.5, logit_bias={5: 2.0}),
        chat(logprobs=2),
        chat(format=SCHEMA, max_tokens=40),
        chat(tools=[TOOL], tool_choice="required", max_tokens=60),
        Asked(model=BASE, prompt="Once upon a time", temperature=0.0, max_tokens=8),
        Asked(model=BASE, prompt=[30, 31, 32, 33], temperature=0.0, max_tokens=3, echo=True, logprobs=1),
    ],
    ids=["plain", "sampled", "logprobs", "schema", "tools", "text", "echo"],
)
def test_what_comes_back_is_what_the_engine_says_itself(live: Live, engine: Elsewhere, asked: Asked) -> None:
    own = live.service.host.ask(asked, project_of(live))
    wanted = own.whole()
    there = engine.ask(asked, Answering(asked.model))
    found = there.whole()
    assert [(d.index, d.text, d.finish) for d in found] == [(d.index, d.text, d.finish) for d in wanted]
    assert [[(c.index, c.name, c.arguments) for c in d.tool_calls] for d in found] == [
        [(c.index, c.name, c.arguments) for c in d.tool_calls] for d in wanted
    ]
    if asked.logprobs is not None:
        for mine, theirs in zip(found[0].tokens, wanted[0].tokens, strict=True):
            assert mine.logprob == pytest.approx(theirs.logprob, abs=2e-2) if theirs.logprob is not None else mine.logprob is None
    assert (there.usage.prompt, there.usage.completion) == (own.usage.prompt, own.usage.completion)


def test_vectors_and_names_come_through(live: Live, engine: Elsewhere) -> None:
    assert BASE in engine.models()
    vectors, tokens = engine.embed(BASE, ["Where is my parcel?", "Hello"])
    wanted, count = live.service.host.embed(BASE, ["Where is my parcel?", "Hello"], project_of(live))
    assert tokens == count and vectors[0] == pytest.approx(wanted[0], abs=1e-2)


def test_refusals_are_told_with_the_engines_words(engine: Elsewhere) -> None:
    for asked, kind, words in (
        (Asked(model="no-such", prompt="x"), NotFound, "There is no model 'no-such'"),
        (chat(format={"type": "nonsense"}), SpecError, "cannot be followed"),
    ):
        with pytest.raises(kind, match=f"The engine said 4.*{words}"):
            engine.ask(asked, Answering("x")).whole()


def test_an_engine_that_is_not_there_is_told() -> None:
    engine = Elsewhere("http://127.0.0.1:9")
    with pytest.raises(ResultError, match=r"backend: The engine at http://127\.0\.0\.1:9 does not answer: ConnectError") as caught:
        engine.ask(chat(), Answering("x")).whole()
    assert caught.value.code == "engine_unreachable"
    with pytest.raises(ResultError):
        engine.models()
    engine.close()


def test_who_leaves_breaks_the_engines_answer_off(live: Live, engine: Elsewhere) -> None:
    answering = engine.ask(chat(max_tokens=900, logit_bias={2: -100.0}), Answering(BASE))
    deltas = iter(answering)
    assert isinstance(next(deltas), Delta)
    deltas.close()  # type: ignore[attr-defined]
    assert answering.cancelled.is_set()
    _, resident = next(iter(live.service.host.engine.bases))  # type: ignore[attr-defined]
    with resident._change:
        assert resident._change.wait_for(lambda: not resident.busy, 60), "it does not write on for nobody"
    assert resident.batcher.batch.drawn < 900


def test_a_tuned_model_is_held_against_its_certificate_through_the_wire(live: Live, tiny: Model) -> None:
    """It stands on the other engine already; ours only proves it and passes on."""
    project, database = project_of(live), live.service.database
    name, liar = (tuned.tuned(database, project, number, base=tiny) for number in (1, 2))
    host = Host(database, None, SimpleNamespace(backend=f"openai:{live.url}", backend_key=live.secret))
    asked = Asked(model=name, messages=[Message("user", QUESTIONS[0])], temperature=0, max_tokens=8)
    try:
        own = live.service.host.ask(asked, project).whole()[0].text
        assert host.ask(asked, project).whole()[0].text == own
        noted = host.model(name, project).certificate
        assert noted is not None and noted["held"] is True
        run = find_run(_run(database, liar))
        content = json.loads(run.certificate.read_text())
        for probe in content["probes"]:
            probe["tuned"]["logprobs"] = [value - 3 for value in probe["tuned"]["logprobs"]]
        live.service.host.ask(Asked(model=liar, prompt="x", max_tokens=1), project).whole()  # the other engine has loaded it by now
        run.certificate.write_text(json.dumps(content))
        with pytest.raises(ResultError, match="does not answer as certified: log-probabilities lie up to") as caught:
            host.ask(Asked(model=liar, prompt="x"), project)
        assert caught.value.code == "certificate"
        for probe in content["probes"]:
            probe["prompt"].append(5)
        run.certificate.write_text(json.dumps(content))
        with pytest.raises(ResultError, match=r"Probe 1 has \d+ tokens as the other engine renders it, and \d+ as it was tuned"):
            host.ask(Asked(model=liar, prompt="x"), project)
        other = tuned.project(database, "other")
        with pytest.raises(NotFound):
            host.ask(asked, other)
        assert name not in {offer.id for offer in host.models(other)} and BASE in {offer.id for offer in host.models(other)}
    finally:
        host.close()


def _run(database: Any, id: str) -> str:
    from luthier.store.tables.models import TunedModel

    with database.read() as session:
        return str(session.query(TunedModel).filter_by(id=id).one().run)


class Small(BaseHTTPRequestHandler):
    """What vLLM and SGLang say when an adapter is handed over."""

    answers: dict[str, tuple[int, str]] = {}  # noqa: RUF012 - each test sets its own
    got: list[tuple[str, Any]] = []  # noqa: RUF012

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.got.append((self.path, body))
        status, text = self.answers.get(self.path, (404, '{"detail": "Not Found"}'))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on standard error."""


@pytest.fixture
def small() -> Iterator[Elsewhere]:
    Small.got.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Small) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        engine = Elsewhere(f"http://127.0.0.1:{server.server_address[1]}/v1/")
        yield engine
        engine.close()
        server.shutdown()


def test_adapters_are_handed_over_as_vllm_takes_them(small: Elsewhere, tmp_path: Path) -> None:
    Small.answers = {"/v1/load_lora_adapter": (200, "Success: LoRA adapter 'desk' added successfully.")}
    small.hand_over("desk", tmp_path)
    assert Small.got == [("/v1/load_lora_adapter", {"lora_name": "desk", "lora_path": str(tmp_path)})]
    Small.answers = {"/v1/load_lora_adapter": (400, '{"message": "The lora adapter \'desk\' has already been loaded."}')}
    small.hand_over("desk", tmp_path)
    Small.answers = {"/load_lora_adapter": (200, "{}"), "/unload_lora_adapter": (200, "{}")}
    small.hand_over("desk", tmp_path)
    small.let_go("desk")
    assert [path for path, _ in Small.got[-2:]] == ["/v1/unload_lora_adapter", "/unload_lora_adapter"]


def test_an_engine_that_takes_no_adapters_says_what_to_do(small: Elsewhere, tmp_path: Path) -> None:
    Small.answers = {}
    with pytest.raises(SpecError, match=r"takes no adapters while it runs\. Start it with the adapter under this name"):
        small.hand_over("desk", tmp_path)
    Small.answers = {"/v1/load_lora_adapter": (400, '{"error": {"message": "No adapter found for /x"}}')}
    with pytest.raises(LuthierError, match="The engine said 400: No adapter found"):
        small.hand_over("desk", tmp_path)


def test_an_unknown_backend_is_refused(live: Live) -> None:
    with pytest.raises(SpecError, match=r"backend = 'vllm' is no engine\. Choose here, or openai:http"):
        Host(live.service.database, None, SimpleNamespace(backend="vllm"))
