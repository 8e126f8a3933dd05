"""What is learned, after what, and how it ends: held over published templates and real rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from template_folders import TEMPLATES, published, write_folder

from luthier.core.errors import DataError, ModelError
from luthier.core.example import Example, Message, Source
from luthier.core.sequence import Sequence
from luthier.data.read import read
from luthier.data.render import Renderer

ROW = Source("tickets.jsonl", 7)
CALL = {"id": "call_1", "type": "function", "function": {"name": "find_order", "arguments": '{"number": "A-17"}'}}
TOOL = {"type": "function", "function": {"name": "find_order", "description": "Finds.", "parameters": {"type": "object", "properties": {}}}}

Speaks = Callable[[str], Renderer]


@pytest.fixture(scope="module")
def speaks(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Speaks:
    """The renderer of a published template, by a part of its name."""
    known: dict[str, Renderer] = {}
    folder = tmp_path_factory.mktemp("models")

    def renderer(part: str) -> Renderer:
        (name,) = (name for name in TEMPLATES if part in name)
        if name not in known:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("LUTHIER_HOME", str(tmp_path_factory.getbasetemp() / "home"))
                known[name] = Renderer.from_folder(published(shared, folder, name))
        return known[name]

    return renderer


@pytest.fixture(scope="module")
def plain(shared: Path) -> Renderer:
    """A real model without a chat template."""
    return Renderer.from_folder(shared / "models" / "stories260k")


def talk(*turns: str, system: str = "") -> Example:
    """A conversation of alternating user and assistant turns."""
    messages = [Message("system", system)] if system else []
    messages += [Message("assistant" if n % 2 else "user", words) for n, words in enumerate(turns)]
    return Example(ROW, messages=messages)


def learned(renderer: Renderer, sequence: Sequence) -> str:
    return renderer.decode(sequence.tokens[sequence.weights > 0].tolist())


def runs(sequence: Sequence) -> list[tuple[int, int]]:
    """Start and stop of each stretch of learned tokens."""
    edges = np.flatnonzero(np.diff(np.r_[0, sequence.weights > 0, 0]))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_answer_follows_the_server_s_prompt_and_ends_with_the_end_token(name: str, speaks: Speaks, shared: Path) -> None:
    renderer, seen, refused = speaks(name), 0, set()
    for file in ("ft_openai_cookbook/toy_chat_fine_tuning.jsonl", "ft_llamafactory/glaive_toolcall_en_demo.json"):
        examples = (item for item in read(shared / "data" / file) if isinstance(item, Example))
        for example, _ in zip(examples, range(12), strict=False):
            try:
                sequences = renderer.render(example)
            except DataError as error:
                refused.add(error.code)
                continue
            answers = {n for n, m in enumerate(example.messages) if m.role == "assistant" and m.weight > 0}
            prompts = {tuple(renderer.prompt(example.messages[:n], tools=example.tools)) for n in answers}
            found = set()
            for sequence in sequences:
                assert sequence.weights[0] == 0
                for start, stop in runs(sequence):
                    found.add(tuple(sequence.tokens[:start].tolist()))
                    assert sequence.tokens[stop - 1] in renderer.end_tokens
                    assert renderer.end_tokens.isdisjoint(sequence.tokens[start : stop - 1].tolist())
            assert found == prompts
            seen += len(answers)
    assert seen > 4
    assert refused <= {"unrendered", "template_refuses"}


def test_turns_share_a_path_where_the_template_is_stable(speaks: Speaks) -> None:
    renderer = speaks("Qwen2.5")
    (sequence,) = renderer.render(talk("Hello", "Good day", "And?", "Goodbye", system="Be kind."))
    assert learned(renderer, sequence) == "Good day<|im_end|>Goodbye<|im_end|>"
    assert renderer.decode(sequence.tokens).endswith("And?<|im_end|>\n<|im_start|>assistant\nGoodbye<|im_end|>")


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("Qwen3", ["<think>\n\n</think>\n\nGood day<|im_end|>", "<think>\n\n</think>\n\nGoodbye<|im_end|>"]),
        ("deepseek", ["Good day<｜end▁of▁sentence｜>", "Goodbye<｜end▁of▁sentence｜>"]),
        ("mistral", ["Good day</s>", "Goodbye</s>"]),
    ],
)
def test_turns_fork_where_the_template_rewrites_what_came_before(name: str, answers: list[str], speaks: Speaks) -> None:
    renderer = speaks(name)
    sequences = renderer.render(talk("Hello", "Good day", "And?", "Goodbye", system="Be kind."))
    assert [learned(renderer, sequence) for sequence in sequences] == answers


def test_thinking_is_learned_in_its_own_turn_and_gone_in_the_next(speaks: Speaks) -> None:
    renderer = speaks("Qwen3")
    example = talk("2+2?", "4", "3+3?", "6")
    example.messages[1].thinking, example.messages[3].thinking = "Two and two.", "Three twice."
    first, second = renderer.render(example)
    assert learned(renderer, first) == "<think>\nTwo and two.\n</think>\n\n4<|im_end|>"
    assert "Two and two" not in renderer.decode(second.tokens)
    assert learned(renderer, second) == "<think>\nThree twice.\n</think>\n\n6<|im_end|>"


def test_an_open_think_in_the_prompt_is_closed_by_the_answer(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    source = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content.split('</think>')[-1] }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<assistant><think>\n{% endif %}"
    )
    folder = write_folder(shared, tmp_path / "model", template=source, tokens=[], begin="", end="<|endoftext|>")
    renderer, example = Renderer.from_folder(folder), talk("2+2?", "4")
    assert learned(renderer, renderer.render(example)[0]) == "\n</think>\n\n4<|endoftext|>"
    example.messages[1].thinking = "Two and two."
    assert learned(renderer, renderer.render(example)[0]) == "Two and two.\n</think>\n\n4<|endoftext|>"


def test_a_merge_across_the_boundary_forks_rather_than_changing_ids(speaks: Speaks) -> None:
    # GPT-2 reads "\n\n" at the end of a text as one token, and before a word as two: the second prompt has other ids than path one
    renderer = speaks("Llama-3.1")
    example = talk("Hello", "Good day", "And?", "Goodbye")
    first, second = renderer.render(example)
    for sequence, place in ((first, 1), (second, 3)):
        prompt = renderer.prompt(example.messages[:place])
        assert sequence.tokens[: len(prompt)].tolist() == prompt
        assert runs(sequence)[0][0] == len(prompt)


def test_tool_calls_are_learned_as_the_template_writes_them(speaks: Speaks) -> None:
    renderer = speaks("Qwen2.5")
    messages = [
        Message("user", "Where is A-17?"),
        Message("assistant", tool_calls=[CALL]),
        Message("tool", "In Bern", tool_call_id="call_1"),
    ]
    messages.append(Message("assistant", "It is in Bern."))
    (sequence,) = renderer.render(Example(ROW, messages=messages, tools=[TOOL]))
    call = '<tool_call>\n{"name": "find_order", "arguments": {"number": "A-17"}}\n</tool_call><|im_end|>'
    assert learned(renderer, sequence) == call + "It is in Bern.<|im_end|>"
    assert '"description": "Finds."' in renderer.decode(sequence.tokens)


def test_weights_multiply_in(speaks: Speaks) -> None:
    renderer, example = speaks("Qwen2.5"), talk("a", "First", "b", "Second", "c", "Third")
    example.messages[1].weight, example.messages[3].weight = 0.0, 0.25
    (sequence,) = renderer.render(example)
    assert learned(renderer, sequence) == "Second<|im_end|>Third<|im_end|>"
    assert sorted(set(sequence.weights.tolist())) == [0.0, 0.25, 1.0]
    assert "First" in renderer.decode(sequence.tokens)


def test_learn_last_answer_and_everything(speaks: Speaks) -> None:
    renderer, example = speaks("Qwen2.5"), talk("a", "First", "b", "Second", "thanks", system="Be kind.")
    (last,) = renderer.render(example, learn="last_answer")
    assert learned(renderer, last) == "Second<|im_end|>"
    (whole,) = renderer.render(example, learn="everything")
    assert whole.weights.tolist() == [0.0] + [1.0] * (len(whole.tokens) - 1)
    assert renderer.decode(whole.tokens).endswith("<|im_start|>user\nthanks<|im_end|>\n")


def test_everything_learns_a_token_of_a_forked_row_once(speaks: Speaks) -> None:
    renderer = speaks("Qwen3")
    first, second = renderer.render(talk("a", "First", "b", "Second", system="Be kind."), learn="everything")
    shared = next(n for n, (a, b) in enumerate(zip(first.tokens, second.tokens, strict=False)) if a != b)
    assert (first.weights[1:] == 1).all()
    assert (second.weights[:shared] == 0).all()
    assert (second.weights[shared:] == 1).all()


def test_a_row_that_teaches_nothing_is_an_error(speaks: Speaks) -> None:
    example = talk("a", "First")
    example.messages[1].weight = 0
    with pytest.raises(DataError, match=r"tickets\.jsonl row 7: The row teaches nothing") as caught:
        speaks("Qwen2.5").render(example)
    assert caught.value.code == "nothing_learned"


def test_a_pair_shares_its_prompt(speaks: Speaks) -> None:
    renderer = speaks("Qwen2.5")
    example = Example(
        ROW, "preference", [Message("user", "Hello")], chosen=[Message("assistant", "Good day")], rejected=[Message("assistant", "What")]
    )
    chosen, rejected = renderer.render(example)
    prompt = renderer.prompt(example.messages)
    assert (chosen.part, rejected.part) == ("chosen", "rejected")
    assert chosen.tokens[: len(prompt)].tolist() == rejected.tokens[: len(prompt)].tolist() == prompt == renderer.prompt_of(example)
    assert [learned(renderer, s) for s in (chosen, rejected)] == ["Good day<|im_end|>", "What<|im_end|>"]


@pytest.mark.parametrize(
    ("name", "change", "field"),
    [
        ("Phi", {"tool_calls": [CALL]}, "messages.1.tool_calls"),
        ("Phi", {"thinking": "Hm."}, "messages.1.thinking"),
        ("deepseek", {"content": "<think>Hm.</think>Good day"}, "messages.1.content"),
    ],
)
def test_words_no_template_shows_are_named(name: str, change: dict[str, object], field: str, speaks: Speaks) -> None:
    example = talk("Hello", "Good day")
    example.messages[1] = replace(example.messages[1], **change)
    with pytest.raises(DataError, match=f"row 7 field {field}: {field} does not appear") as caught:
        speaks(name).render(example)
    assert caught.value.code == "unrendered"
    assert "Remove it from the row" in caught.value.remedy


def test_tools_and_unknown_roles_that_no_template_shows_are_named(speaks: Speaks) -> None:
    example = talk("Hello", "Good day")
    with pytest.raises(DataError, match=r"tools\.0 does not appear"):
        speaks("SmolLM3").render(replace(example, tools=[TOOL]))
    example.messages.insert(0, Message("critic", "Mind your words."))
    with pytest.raises(DataError, match=r"messages\.0\.content does not appear"):
        speaks("Phi").render(example)


def test_a_refusal_of_the_template_names_the_row(speaks: Speaks) -> None:
    with pytest.raises(
        DataError, match=r"tickets\.jsonl row 7: The model's chat template refuses this conversation: System role not supported"
    ):
        speaks("gemma").render(talk("Hello", "Good day", system="Be kind."))


def test_a_model_without_a_template(plain: Renderer) -> None:
    assert not plain.has_template
    assert "no chat template" in plain.notes[0]
    (chat,) = plain.render(talk("Hello", "Good day", "And?", "Bye", system="Be kind."))
    assert (
        plain.decode(chat.tokens) == "System:\nBe kind.\n\nUser:\nHello\n\nAssistant:\nGood day</s>\n\nUser:\nAnd?\n\nAssistant:\nBye</s>"
    )
    assert learned(plain, chat) == "Good day</s>Bye</s>"
    pair = Example(ROW, "completion", [Message("user", "One day,"), Message("assistant", " a girl sang.")])
    (joined,) = plain.render(pair)
    assert plain.decode(joined.tokens) == "One day, a girl sang.</s>"
    assert learned(plain, joined) == " a girl sang.</s>"
    assert joined.tokens[: len(plain.prompt_of(pair))].tolist() == plain.prompt_of(pair)
    (text,) = plain.render(Example(ROW, "text", text="One day."))
    assert text.tokens[-1] in plain.end_tokens
    assert text.weights.tolist() == [0.0] + [1.0] * (len(text.tokens) - 1)


def test_the_begin_token_is_there_when_the_tokenizer_adds_it(shared: Path, tmp_path: Path) -> None:
    folder = write_folder(shared, tmp_path, template="", tokens=["<s>"], begin="<s>", end="<|endoftext|>")
    config = (folder / "tokenizer_config.json").read_text()
    (folder / "tokenizer_config.json").write_text(config.replace("{", '{"add_bos_token": true, ', 1))
    renderer = Renderer.from_folder(folder)
    (text,) = renderer.render(Example(ROW, "text", text="One day"))
    assert renderer.decode(text.tokens) == "<s>One day<|endoftext|>"
    assert text.weights.tolist()[:2] == [0.0, 1.0]
    assert renderer.decode(renderer.prompt([Message("user", "x")])).startswith("<s>User:")


def test_chatml_is_taken_when_its_tokens_are_there(shared: Path, tmp_path: Path) -> None:
    renderer = Renderer.from_folder(
        write_folder(shared, tmp_path, template="", tokens=["<|im_start|>", "<|im_end|>"], begin="", end="<|endoftext|>")
    )
    assert renderer.decode(renderer.render(talk("a", "b"))[0].tokens) == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>"
    assert renderer.end_tokens == {renderer.encode("<|im_end|>")[0], renderer.encode("<|endoftext|>")[0]}


@pytest.mark.parametrize("name", ["Qwen3", "Llama-3.1", "plain"])
def test_what_is_saved_renders_alike(name: str, speaks: Speaks, plain: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    before = plain if name == "plain" else speaks(name)
    before.save(tmp_path / "model")
    after = Renderer.from_folder(tmp_path / "model")
    assert after.fingerprint == before.fingerprint
    assert (after.has_template, after.end_tokens, after.vocab_size) == (before.has_template, before.end_tokens, before.vocab_size)
    example = talk("a", "First", "b", "Second")
    assert [s.tokens.tolist() for s in after.render(example)] == [s.tokens.tolist() for s in before.render(example)]


def test_named_templates_and_lists_of_end_tokens(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    folder = write_folder(shared, tmp_path / "model", template="", tokens=["<e>", "<f>"], begin="", end="<|endoftext|>")
    turn = "{% for m in messages %}{{ m.role + ' ' + m.content }}<e>{% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
    templates = [{"name": "default", "template": turn}, {"name": "tool_use", "template": "{{ tools | tojson }}" + turn}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|endoftext|>"}, "chat_template": templates}))
    (folder / "generation_config.json").write_text('{"eos_token_id": [50256, 50258]}')
    renderer = Renderer.from_folder(folder)
    assert sorted(renderer.decode([token]) for token in renderer.end_tokens) == ["<e>", "<f>", "<|endoftext|>"]
    assert renderer.decode(renderer.prompt([Message("user", "x")], tools=[TOOL])).startswith('[{"type": "function"')
    assert learned(renderer, renderer.render(talk("a", "b"))[0]) == "b<e>"


def test_a_template_that_ends_turns_without_a_token_learns_the_model_s_own(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    source = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    renderer = Renderer.from_folder(write_folder(shared, tmp_path / "m", template=source, tokens=[], begin="", end="<|endoftext|>"))
    assert "the model's end token is learned there" in renderer.notes[0]
    assert learned(renderer, renderer.render(talk("a", "b"))[0]) == " b<|endoftext|>"


def test_folders_that_cannot_be_used_say_why(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        Renderer.from_folder(tmp_path)
    folder = write_folder(shared, tmp_path / "no-end", template="", tokens=[], begin="", end="nowhere")
    with pytest.raises(ModelError, match="names no end token"):
        Renderer.from_folder(folder)
    (folder / "tokenizer_config.json").write_text("[")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json is not JSON"):
        Renderer.from_folder(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer\.json cannot be read"):
        Renderer.from_folder(folder)


def test_pieces_have_the_ids_of_the_whole(speaks: Speaks, plain: Renderer, shared: Path) -> None:
    for renderer in (speaks("Qwen3"), speaks("mistral"), plain):
        special = list(renderer.tokenizer.added)[-3:]
        text = (shared / "data" / "ft_openai_cookbook" / "toy_chat_fine_tuning.jsonl").read_text(encoding="utf-8")
        for step in (7, 31, 64):
            pieces = [text[n : n + step] + special[n % len(special)] for n in range(0, 3000, step)]
            whole = "".join(pieces)
            assert renderer.encode(whole) == renderer.tokenizer.library.encode(whole, add_special_tokens=False).ids


def test_a_truncation_in_the_tokenizer_file_cuts_nothing(shared: Path, tmp_path: Path) -> None:
    folder = write_folder(shared, tmp_path, template="", tokens=[], begin="", end="<|endoftext|>")
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.enable_truncation(4)
    library.enable_padding(length=8)
    library.save(str(folder / "tokenizer.json"))
    renderer = Renderer.from_folder(folder)
    assert len(renderer.encode("one two three four five six seven eight nine ten")) == 10
    assert len(renderer.encode("one")) == 1
