"""Templates render as transformers renders them, and a hostile one is found before it runs here."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers.utils.chat_template_utils as theirs
from template_folders import TEMPLATES, published, write_folder
from transformers import PreTrainedTokenizerFast

from luthier.core.errors import DataError, LuthierError, ModelError
from luthier.core.example import Example, Message
from luthier.data import probe
from luthier.data.read import read
from luthier.data.render import Renderer
from luthier.data.shape import Shape, shape_of
from luthier.data.template import BUILT_IN, TODAY, Template, compiled


class FixedDate(datetime.datetime):
    """The clock that transformers reads, stopped at ours."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> FixedDate:
        return cls(TODAY.year, TODAY.month, TODAY.day)


@pytest.fixture(scope="module")
def rows(shared: Path) -> list[Example]:
    """Real conversations: plain, with tool calls, and ShareGPT."""
    files = (
        "ft_openai_cookbook/toy_chat_fine_tuning.jsonl",
        "ft_llamafactory/glaive_toolcall_en_demo.json",
        "ft_fastchat/dummy_conversation.json",
    )
    found: list[Example] = []
    for file in files:
        examples = (item for item in read(shared / "data" / file) if isinstance(item, Example))
        found += [example for example, _ in zip(examples, range(14), strict=False)]
    assert len(found) > 20
    assert any(message.tool_calls for example in found for message in example.messages)
    return found


@pytest.fixture(scope="module", params=TEMPLATES)
def pair(request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Renderer, Any]]:
    """Our renderer and transformers' tokenizer, from the same folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_HOME", str(tmp_path_factory.getbasetemp() / "home"))
        patch.setattr(theirs, "datetime", FixedDate)
        folder = published(shared, tmp_path_factory.mktemp("model"), request.param)
        yield Renderer.from_folder(folder), PreTrainedTokenizerFast.from_pretrained(folder)


def expected_ids(oracle: Any, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> list[int]:
    """The prompt by transformers. Its outer function drops contents that are None, which DeepSeek's template needs: then the inner one."""
    if all(message["content"] is not None for message in messages):
        return oracle.apply_chat_template(messages, tools=tools or None, add_generation_prompt=True, tokenize=True, return_dict=False)
    texts, _ = theirs.render_jinja_template(
        [messages], tools=tools or None, chat_template=oracle.chat_template, add_generation_prompt=True, **oracle.special_tokens_map
    )
    return oracle(texts[0], add_special_tokens=False)["input_ids"]


def test_every_prompt_has_the_ids_of_transformers(pair: tuple[Renderer, Any], rows: list[Example]) -> None:
    renderer, oracle = pair
    shape = shape_of(Template(renderer.sources["default"], variables=renderer.parts.variables))
    equal = 0
    for example in rows:
        for place in [n for n, message in enumerate(example.messages) if message.role == "assistant"][:3]:
            talk = example.messages[:place]
            try:
                expected = expected_ids(oracle, shape.messages(talk), example.tools)
            except Exception:
                with pytest.raises(DataError, match="chat template refuses this conversation"):
                    renderer.prompt(talk, tools=example.tools)
                continue
            assert renderer.prompt(talk, tools=example.tools) == expected
            equal += 1
    assert equal > 15


def test_a_finished_conversation_has_the_text_of_transformers(pair: tuple[Renderer, Any], rows: list[Example]) -> None:
    renderer, oracle = pair
    template = Template(renderer.sources["default"], variables=renderer.parts.variables)
    shape = shape_of(template)
    for example in rows:
        messages = shape.messages(example.messages)
        try:
            expected = oracle.apply_chat_template(messages, tools=example.tools or None, tokenize=False)
        except Exception:
            continue
        assert template.render(messages, tools=example.tools, generate=False) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}\n  {% if loop.first %}{% continue %}{% endif %}"
        "-{% endfor %}",
        "{{ {'a': '<é>', 'b': [1, none]} | tojson }}{{ messages | tojson(indent=2) }}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% if ns.n > 1 %}{% break %}{% endif %}{% endfor %}"
        "{{ ns.n }}",
        "{{ dict(a=1).items() | list }}{{ strftime_now('%d %b %Y') }}{{ eos_token }}{{ undefined_name }}",
    ],
)
def test_the_dialect_is_that_of_transformers(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(theirs, "datetime", FixedDate)
    theirs._compile_jinja_template.cache_clear()
    messages = [{"role": "user", "content": "a <b> é"}, {"role": "assistant", "content": "c"}]
    expected, _ = theirs.render_jinja_template([messages], chat_template=source, add_generation_prompt=True, eos_token="</s>")
    assert Template(source, variables={"eos_token": "</s>"}).render(messages, generate=True) == expected[0]


def test_the_template_s_own_words_reach_the_user() -> None:
    with pytest.raises(DataError, match="refuses this conversation: No system here") as caught:
        Template("{{ raise_exception('No system here') }}", variables={}).render([], generate=True)
    assert caught.value.code == "template_refuses"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{% set ns = namespace(_x=1) %}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
    ],
)
def test_the_sandbox_holds(source: str) -> None:
    with pytest.raises(DataError):
        Template(source, variables={}).render([{"role": "user", "content": "x"}], generate=True)


def test_tool_calls_are_shaped_for_each_template(shared: Path) -> None:
    folder = shared / "data" / "tok_chat_templates"
    shapes = {
        name: shape_of(Template((folder / f"{name}.jinja").read_text(), variables={"eos_token": "</s>", "bos_token": "<s>"}))
        for name in TEMPLATES
    }
    assert shapes["Qwen-Qwen2.5-7B-Instruct"] == Shape()
    assert shapes["mistralai-Mistral-Nemo-Instruct-2407"].nine
    assert shapes["deepseek-ai-DeepSeek-R1-Distill-Qwen-32B"].empty is None


def test_arguments_as_text_where_a_template_adds_them_to_text() -> None:
    call = "{% for c in m.tool_calls %}{{ c.function.name + ':' + c.function.arguments }}{% endfor %}"
    source = "{% for m in messages %}{{ m.content }}" + call + "{% endfor %}"
    assert not shape_of(Template(source, variables={})).objects


def test_calls_without_ids_are_joined_to_their_answers() -> None:
    call = {"function": {"name": "look", "arguments": "{}"}}
    shaped = Shape(nine=True).messages([Message("assistant", tool_calls=[call]), Message("tool", "found")])
    assert shaped[0]["tool_calls"][0]["id"] == shaped[1]["tool_call_id"]
    assert len(shaped[1]["tool_call_id"]) == 9


def test_developer_is_shown_as_system_where_the_template_does_not_know_it() -> None:
    assert Shape().messages([Message("developer", "x")])[0]["role"] == "system"
    assert Shape(developer=True).messages([Message("developer", "x")])[0]["role"] == "developer"


HOSTILE = {
    "for ever": ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "longer than 1 seconds"),
    "memory": ("{{ messages[0].content * 999999999 }}", "needs more than 1024 MB|longer than 1 seconds"),
    "flood": ("{{ messages[0].content * 300000 }}", "characters for a short conversation"),
    "a constant": ("{{ 9**9999999 // 9**9999998 }}", "longer than 1 seconds"),
    "not jinja": ("{% for %}", "does not compile"),
    "refuses all": ("{{ raise_exception('no') }}", "refuses a single question"),
}


@pytest.mark.parametrize(("source", "said"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_template_is_refused_once_and_remembered(source: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    monkeypatch.setattr(probe, "SECONDS", 1)
    with pytest.raises(ModelError, match=said) as caught:
        probe.approve(source, variables={}, where="folder")
    assert caught.value.where == "folder"
    assert "chat_template.jinja" in caught.value.remedy
    monkeypatch.setattr(probe.subprocess, "run", _no_child)
    with pytest.raises(ModelError, match=said):
        probe.approve(source, variables={})


def _no_child(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("a verdict was known, and yet a child was started")


def test_a_good_template_costs_one_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    source = "{% for m in messages %}{{ m.content }}{% endfor %}"
    probe.approve(source, variables={})
    (verdict,) = (tmp_path / "cache" / "templates").iterdir()
    monkeypatch.setattr(probe.subprocess, "run", _no_child)
    probe.approve(source, variables={})
    for known in BUILT_IN:
        probe.approve(known, variables={})
    verdict.write_text("{")
    with pytest.raises(AssertionError, match="a child was started"):
        probe.approve(source, variables={})


def test_a_renderer_asks_before_it_compiles(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    monkeypatch.setattr(probe, "SECONDS", 1)
    source = HOSTILE["for ever"][0]
    folder = write_folder(shared, tmp_path / "model", template=source, tokens=[], begin="", end="<|endoftext|>")
    compiled.cache_clear()
    with pytest.raises(LuthierError, match="longer than 1 seconds"):
        Renderer.from_folder(folder)
    assert compiled.cache_info().currsize == 0
