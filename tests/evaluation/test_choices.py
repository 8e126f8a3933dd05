"""Multiple choice through the tree equals one continuation at a time."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch

from luthier.core.errors import DataError
from luthier.evaluation.choices import Question, choose, choose_all
from luthier.models.model import Model
from luthier.models.sight import Sight

from .conftest import Tuned


def naive(model: Model, prompt: list[int], choice: list[int]) -> float:
    tokens = torch.tensor(prompt + choice)
    count = len(tokens)
    with torch.no_grad():
        states = model.states(tokens_T=tokens, positions_T=torch.arange(count), sight=Sight(np.full(count, count), np.arange(count)))
        logprobs = model.head()(states).log_softmax(-1)
    return sum(float(logprobs[len(prompt) + i - 1, token]) for i, token in enumerate(choice))


def few_shot(shared: Path, model: Model) -> list[Question]:
    """MMLU questions behind two worked examples, the four answers as texts of different length."""
    folder = shared / "data" / "ev_mmlu"
    texts = {part: (folder / part / f"marketing_{part}.csv").read_text(encoding="utf-8") for part in ("dev", "test")}
    rows = {part: list(csv.reader(io.StringIO(text)))[1:] for part, text in texts.items()}
    shots = "".join(f"Question: {r[0][:80]}\nAnswer: {r[1 + int(r[5])][:40]}\n\n" for r in rows["dev"][:2])
    encode = model.renderer.encode
    short = [r for r in rows["test"] if len(r[0]) < 90][:6]
    return [Question([1, *encode(f"{shots}Question: {r[0]}\nAnswer:")], [encode(" " + r[i][:60]) for i in range(1, 5)]) for r in short]


@pytest.mark.parametrize("by", ["sum", "mean"])
def test_scores_equal_the_naive_ones_on_real_few_shot_rows(tuned: Tuned, shared: Path, by: str) -> None:
    asked = few_shot(shared, tuned.model)
    for question, found in zip(asked, choose_all(tuned.model, asked, by=by), strict=True):  # type: ignore[arg-type]
        wanted = [naive(tuned.model, question.prompt, c) / (len(c) if by == "mean" else 1) for c in question.choices]
        np.testing.assert_allclose(found.scores, wanted, rtol=1e-4, atol=1e-4)
        assert found.index == int(np.argmax(wanted))


def test_the_mean_does_not_punish_length(tuned: Tuned) -> None:
    encode = tuned.model.renderer.encode
    prompt, long = [1, *encode("Once upon a")], encode(" time there was a dog")
    scores = {by: choose(tuned.model, prompt, [long, long[:1]], by=by).scores for by in ("sum", "mean")}  # type: ignore[arg-type]
    assert scores["mean"][0] == pytest.approx(scores["sum"][0] / len(long))
    assert scores["sum"][0] < scores["sum"][1] == scores["mean"][1]


def test_impossible_questions_are_refused(tuned: Tuned) -> None:
    with pytest.raises(DataError, match="Question 1 has an empty prompt or choice"):
        choose(tuned.model, [1], [[5], []])
    with pytest.raises(DataError, match=r"Question 1 has 514 tokens, but .* reads 512"):
        choose(tuned.model, [1] * 512, [[5, 6]])
