"""Conversations: history, /base, commands, and what happens when they outgrow the model."""

import pytest

from luthier.core.errors import DataError, SpecError
from luthier.core.example import Message
from luthier.inference.chat import Conversation, Settings, command
from luthier.inference.generate import generate
from luthier.inference.sides import Sides
from luthier.models.model import Model


@pytest.fixture
def talk(stories: Model) -> Conversation:
    return Conversation(Sides(stories), Settings(max_tokens=12))


def test_an_answer_equals_generation_from_the_rendered_prompt(talk: Conversation, stories: Model) -> None:
    prompt = stories.renderer.prompt([Message("user", "Tell me a story.")])
    (wanted,) = generate(stories, [prompt], max_tokens=12, stop=stories.renderer.end_tokens)
    assert "".join(talk.ask("Tell me a story.")) == stories.renderer.decode(wanted.answer)


def test_history_is_shown_to_the_model_and_base_answers_are_not_kept(talk: Conversation, stories: Model) -> None:
    first = "".join(talk.ask("Who is Tom?"))
    second = "".join(talk.ask("And Lily?"))
    assert [m.content for m in talk.turns] == ["Who is Tom?", first, "And Lily?", second]
    again = "".join(talk.base())
    assert again == second  # without a method both sides are the same model, asked with the same turns before it
    assert len(talk.turns) == 4


def test_a_broken_off_answer_is_kept_as_far_as_it_came(talk: Conversation) -> None:
    pieces = talk.ask("Who is Tom?")
    first = next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert talk.turns[-1].content == first


def test_oldest_turns_are_dropped_only_with_a_notice(talk: Conversation, stories: Model) -> None:
    for _ in range(60):
        "".join(talk.ask("What did the little girl and her big dog do then?"))
        if talk.notices:
            break
    assert "outgrew the 512 tokens the model reads: its oldest" in talk.notices[0]
    assert len(stories.renderer.prompt(talk.turns)) <= 512


def test_a_question_longer_than_the_model_reads_is_refused(talk: Conversation) -> None:
    with pytest.raises(DataError, match=r"The question has [\d,]+ tokens with its system prompt; .* reads 512"):
        talk.ask("word " * 600)
    assert talk.turns == []


def test_commands() -> None:
    assert command("hello /base") == ("", "hello /base")
    assert command("/base  why? ") == ("/base", "why?")
    with pytest.raises(SpecError, match=r"no command /bse\. Did you mean /base\?"):
        command("/bse")


def test_base_without_a_question_is_answered_kindly(talk: Conversation) -> None:
    with pytest.raises(SpecError, match="Nothing was asked yet"):
        talk.base()


def test_reset_forgets(talk: Conversation) -> None:
    "".join(talk.ask("Who is Tom?"))
    talk.reset()
    assert talk.turns == []


def test_bytes_that_are_no_text_are_refused(talk: Conversation) -> None:
    with pytest.raises(DataError, match=r"not UTF-8 \(character 6\)"):
        talk.ask("Hello\udcff")
    assert talk.turns == []
