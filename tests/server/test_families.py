"""What the service does not answer by families that read something else than words, or write beside them: said in words, never a 500."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from jobs import tuned
from luthier.core.spec import Spec
from luthier.evaluation import certificate
from luthier.jobs import specs
from luthier.methods import lora
from luthier.models.load import load
from luthier.store.runs import RunFolder, create
from server.live import Live, listening
from server.rows import actor
from tiny_families import FAMILIES, saved

HELLO: Any = [{"role": "user", "content": "Hello"}]
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SOUND = {"type": "input_audio", "input_audio": {"data": base64.b64encode(b"RIFF").decode(), "format": "wav"}}
REFUSED = {
    "t5": ("not_served", "writes beside a source.*luthier evaluate"),
    "whisper": ("not_served", "writes beside a source.*luthier evaluate"),
    "vit": ("no_text", "reads no words.*luthier predict"),
    "ast": ("no_text", "reads no words.*luthier predict"),
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service on a machine with a base of each family."""
    folder = tmp_path_factory.mktemp("zoo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_HOME", str(folder))
        (folder / "models").mkdir()
        for name in FAMILIES:
            saved(name, folder / "models")
        yield from listening(folder / "service", worker=False)


@pytest.fixture(scope="module")
def asker(zoo: Live) -> openai.OpenAI:
    return zoo.client(max_retries=0)


def made(live: Live, base: str) -> str:
    """A tuned model of a base: its id."""
    run: RunFolder = create(out=None, stem=base, method="lora")
    spec: Any = {"model": {"name": base, "dtype": "float32"}, "data": {"file": "rows.jsonl"}, "method": {"name": "lora"}}
    specs.save(Spec.model_validate(spec), run.spec)
    model, method = load(base, dtype="float32"), lora.Method()
    method.attach(model)
    method.save(model, run.path / "adapter")
    if base == "llava":  # those that are refused before are never held against theirs
        certificate.write(model, method, tuned.probes(), run.path)
    return tuned.row(live.service.database, actor(live).project_id, run, method="lora", folder="adapter")


@pytest.mark.parametrize("family", REFUSED)
def test_who_cannot_be_talked_to_says_so(family: str, zoo: Live, asker: openai.OpenAI) -> None:
    code, message = REFUSED[family]
    calls: list[Callable[[str], Any]] = [
        lambda model: asker.chat.completions.create(model=model, messages=HELLO),
        lambda model: list(asker.chat.completions.create(model=model, messages=HELLO, stream=True)),
        lambda model: asker.completions.create(model=model, prompt="Hello"),
        lambda model: asker.embeddings.create(model=model, input="Hello"),
    ]
    for model in (family, made(zoo, family)):
        for call in calls:
            with pytest.raises(openai.BadRequestError, match=message) as caught:
                call(model)
            assert (caught.value.code, caught.value.param) == (code, "model")


@pytest.mark.parametrize("model", ["luthier-mini", "llava"])
@pytest.mark.parametrize("part", [PICTURE, SOUND], ids=["picture", "sound"])
def test_pictures_and_sounds_in_a_chat_are_refused(part: Any, model: str, asker: openai.OpenAI) -> None:
    """Models that see are tuned and evaluated here; the wire hands them words alone."""
    messages: Any = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, part]}]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match=r"reads text only.*Leave it out") as caught:
            asker.chat.completions.create(model=model, messages=messages, stream=stream)
        assert (caught.value.code, caught.value.param) == ("unsupported_media", "messages.0.content.1")


def test_a_model_that_sees_is_talked_to_in_words(zoo: Live, asker: openai.OpenAI) -> None:
    for model in ("llava", made(zoo, "llava")):
        said = asker.chat.completions.create(model=model, messages=HELLO, max_completion_tokens=4)
        assert said.usage and said.usage.completion_tokens > 0
        assert len(asker.embeddings.create(model=model, input="Hello").data[0].embedding) == 32
        with pytest.raises(openai.BadRequestError, match="has 0 pictures"):
            asker.chat.completions.create(model=model, messages=[{"role": "user", "content": "Look: <image>"}])
        for call in (asker.completions.create, asker.embeddings.create):
            with pytest.raises(openai.BadRequestError, match=r"has <image>, which stands for a picture.*Delete it") as caught:
                call(model=model, **{"prompt" if call == asker.completions.create else "input": "Look: <image>"})
            assert caught.value.code == "unsupported_media"
        often = asker.chat.completions.create(model=model, messages=HELLO, logit_bias={"1": 100}, n=4, max_completion_tokens=8)
        assert all("<image>" not in (choice.message.content or "") for choice in often.choices), "a picture is never said"
