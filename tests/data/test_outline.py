"""An outline filled in is what Jinja writes, for every published template; what an outline cannot hold is left to Jinja."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from template_folders import TEMPLATES

from luthier.core.errors import DataError
from luthier.core.example import Message
from luthier.data.outline import KEPT, Outlines
from luthier.data.shape import shape_of
from luthier.data.template import CHATML, PLAIN, PLAIN_BEGUN, Template
from luthier.models.catalog import BUNDLED

CONTENTS = (
    "Hi there",
    " padded \n",
    "a </think> b",
    "<think>\nx\n</think>\n\ny",
    "<tool_response>z</tool_response>",
    "<tool_response> begun",
    '{"a": 1}',
    "/no_think now",
    "\n\nlines\n",
    "é日\u2028",
    "{{ messages }}",
    "\ue0000\ue001 odd",
    "\ue000-1\ue001",
)
SYMBOLS = {"bos_token": "<s>", "eos_token": "</s>"}


def conversations(count: int) -> list[list[Message]]:
    dice = random.Random(5)
    found = []
    for _ in range(count):
        talk = [Message("system", dice.choice(CONTENTS))] if dice.random() < 0.5 else []
        for _ in range(dice.randint(1, 4)):
            talk += [Message("user", dice.choice(CONTENTS)), Message("assistant", dice.choice(CONTENTS))]
        found.append(talk[: -1 if dice.random() < 0.5 else None])
    return found


def sources(shared: Path) -> dict[str, str]:
    found = {name: (shared / "data" / "tok_chat_templates" / f"{name}.jinja").read_text(encoding="utf-8") for name in TEMPLATES}
    found["luthier-mini"] = (BUNDLED / "luthier-mini" / "chat_template.jinja").read_text(encoding="utf-8")
    return found | {"chatml": CHATML, "plain": PLAIN, "plain begun": PLAIN_BEGUN}


@pytest.mark.parametrize("name", [*TEMPLATES, "luthier-mini", "chatml", "plain", "plain begun"])
def test_filled_outlines_are_what_jinja_writes(name: str, shared: Path) -> None:
    template = Template(sources(shared)[name], variables=SYMBOLS)
    shape = shape_of(template)
    outlines, filled = Outlines(template, shape), 0
    for talk in conversations(300):
        generate = talk[-1].role == "user"
        text = outlines.text(talk, generate=generate)
        if text is not None:
            filled += 1
            assert text == template.render(shape.messages(talk), generate=generate)
    assert filled > 5, "outlines are used at all"


@pytest.mark.parametrize(
    "use",
    [
        "content | length",
        "content | upper",
        "content | tojson",
        "content == 'Hi there'",
        "content[:2]",
        "content.split('t')[0]",
        "content.lstrip()",
        "('(' + content + ')') | trim",
        "('(' ~ content ~ ')').strip('(')",
        "'<%s>' % content",
        "content * 2",
        "'-'.join([content])",
        "'a b' | replace('b', content)",
        "messages | tojson",
        "messages | map(attribute='content') | join",
        "'x' if content < 'b' else 'y'",
        "[content] | join('-')",
        "{'k': content} | string",
    ],
)
def test_a_template_that_does_more_with_a_content_is_left_to_jinja(use: str) -> None:
    source = "{% for message in messages %}{% set content = message.content %}<{{ " + use + " }}>{% endfor %}"
    template = Template(source, variables={})
    shape = shape_of(template)
    for words in ("Hi there", "bb", '"quoted"'):
        talk = [Message("user", words)]
        text = Outlines(template, shape).text(talk, generate=True)
        assert text is None, "it must not be taken for an outline"


def test_assumptions_are_asked_of_every_row() -> None:
    source = "{% for message in messages %}{{ 'T' if '</t>' in message.content else message.content }}{% endfor %}"
    template = Template(source, variables={})
    outlines = Outlines(template, shape_of(template))
    assert outlines.text([Message("user", "plain")], generate=True) == "plain"
    assert outlines.text([Message("user", "a </t> b")], generate=True) is None
    assert outlines.text([Message("user", "again")], generate=True) == "again"


def test_turns_with_more_than_words_are_left_to_jinja() -> None:
    template = Template(CHATML, variables={})
    outlines = Outlines(template, shape_of(template))
    call = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}]
    for turn in (Message("assistant", tool_calls=call), Message("assistant", "a", thinking="t"), Message("user", " "), Message("user", "")):
        assert outlines.text([Message("user", "q"), turn], generate=False) is None


def test_a_refusal_stays_jinja_s_to_tell() -> None:
    template = Template("{{ raise_exception('no') if messages[0].role == 'system' else messages[0].content }}", variables={})
    outlines = Outlines(template, shape_of(template))
    assert outlines.text([Message("system", "s")], generate=True) is None
    with pytest.raises(DataError, match="no"):
        template.render([{"role": "system", "content": "s"}], generate=True)


def test_outlines_are_bounded() -> None:
    template = Template("{{ messages | length }}", variables={})
    outlines = Outlines(template, shape_of(template))
    for turns in range(1, KEPT + 10):
        assert outlines.text([Message("user", "a")] * turns, generate=True) == str(turns)
    assert len(outlines) <= KEPT
