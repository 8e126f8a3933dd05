"""Tool calls in what a model says, whole or a letter at a time; what is no call stays text."""

import json

import pytest

from luthier.data.render import Renderer
from luthier.inference.serving.calls import Calls, form_of
from luthier.models.find import find

NAMES = frozenset({"weather", "time"})
PARIS, ROME = '{"city": "Paris"}', '{"city": "Rome {x}"}'


def read(text: str, size: int, *, several: bool = True) -> tuple[str, list[tuple[str, str]]]:
    calls, said, found = Calls(NAMES, several), "", []
    for i in range(0, len(text), size):
        more, made = calls.take(text[i : i + size])
        said, found = said + more, found + made
        if calls.enough:
            break
    more, made = calls.end()
    assert [call.index for call in [*found, *made]] == list(range(len(found) + len(made)))
    return said + more, [(call.name, call.arguments) for call in [*found, *made]]


CALLS = {
    "hermes": (f'<tool_call>\n{{"name": "weather", "arguments": {PARIS}}}\n</tool_call>', "", [("weather", PARIS)]),
    "hermes, two after words": (
        f'Let me look.\n<tool_call>\n{{"name": "weather", "arguments": {PARIS}}}\n</tool_call>\n<tool_call>\n'
        f'{{"name": "weather", "arguments": {ROME}}}\n</tool_call>',
        "Let me look.\n",
        [("weather", PARIS), ("weather", ROME)],
    ),
    "llama": (f'{{"name": "weather", "parameters": {PARIS}}}', "", [("weather", PARIS)]),
    "llama, tagged, two": (
        f'<|python_tag|>{{"name": "time", "parameters": {{}}}}; {{"name": "weather", "parameters": {ROME}}}',
        "",
        [("time", "{}"), ("weather", ROME)],
    ),
    "mini, a call a line": (
        f'{{"name": "weather", "arguments": {PARIS}}}\n{{"name": "time", "arguments": {{}}}}',
        "",
        [("weather", PARIS), ("time", "{}")],
    ),
    "mistral": (f'[TOOL_CALLS] [{{"name": "weather", "arguments": {PARIS}, "id": "abcdefghi"}}]', "", [("weather", PARIS)]),
    "newer mistral": (f"[TOOL_CALLS]weather[ARGS]{PARIS}", "", [("weather", PARIS)]),
    "openai's own": (
        f'{{"type": "function", "function": {{"name": "weather", "arguments": {json.dumps(PARIS)}}}}}',
        "",
        [("weather", PARIS)],
    ),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_calls_are_found_in_every_form(name: str, size: int) -> None:
    text, said, calls = CALLS[name]
    assert read(text, size) == (said, calls)


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    "text",
    [
        "Just words, with a < and a [ and { in them.",
        '{"city": "Paris", "name": "no call"}',
        '{"name": "unknown_tool", "arguments": {}}',
        '{"name": "weather", "arguments": {"city": ',
        '<tool_call>{"name": "weather", "arguments": nonsense}</tool_call> and on',
        "[1, 2, 3]",
        '  [{"a": 1}]',
        "[TOOL_CALLS] what is this",
        "<tool_call> never closed",
        "",
    ],
)
def test_what_is_no_call_stays_text(text: str, size: int) -> None:
    assert read(text, size) == (text, [])


def test_words_are_not_held_back_where_no_call_can_come() -> None:
    calls = Calls(NAMES)
    assert calls.take("The answer is <b>")[0] == "The answer is <b>"
    assert calls.take(" <tool")[0] == " " and calls.take("s>")[0] == "<tools>"
    calls = Calls(NAMES)
    assert calls.take('{"city')[0] == "" and calls.take('": 1')[0] == '{"city": 1'


def test_one_call_is_enough_where_one_is_wanted() -> None:
    text = CALLS["hermes, two after words"][0]
    assert read(text, 5, several=False)[1] == [("weather", PARIS)]
    assert read(CALLS["mini, a call a line"][0], 5, several=False)[1] == [("weather", PARIS)]


def test_a_templates_own_form_is_found() -> None:
    form = form_of(Renderer.from_folder(find("luthier-mini")))
    assert form is not None
    assert (form.opening, form.middle, form.closing) == ('{"name": "', '", "arguments": ', "}")
