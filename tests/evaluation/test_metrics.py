"""Each metric against its reference or by hand; the folder's contract for all of them."""

from pathlib import Path

import pytest

from luthier.core.errors import SpecError
from luthier.evaluation.labels import Labels, detect
from luthier.evaluation.metrics import FOLDER, extras, metric

FREE = Labels("none", (), "free text")
WHOLE = Labels("whole", ("ham", "spam"), "two labels")


def score(name: str, expected: str, answer: str, *, labels: Labels = FREE, stopped: bool = True) -> float:
    return metric(name).score(expected, answer, labels=labels, stopped=stopped)


@pytest.mark.parametrize("name", FOLDER.names())
def test_every_metric_keeps_the_contract(name: str) -> None:
    part = metric(name)
    assert part.title
    assert part.unit
    assert part.scale > 0
    assert part.higher_is_better is True
    assert score(name, "Where is my parcel?", "Where is my parcel?") == pytest.approx(1.0)
    for answer in ("", "x", "Where is", "été 🙂 <b>"):
        assert 0.0 <= score(name, "Where is my parcel?", answer) <= 1.0
        assert 0.0 <= score(name, "", answer) <= 1.0


def test_an_unknown_metric_is_answered_with_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"no metric called 'chrff'.*Did you mean chrf\?"):
        metric("chrff")


def test_exact_match_ignores_white_space_only() -> None:
    assert score("exact_match", "a  b\n", " a b") == 1.0
    assert score("exact_match", "a b", "A b") == 0.0


def test_chrf_equals_sacrebleu() -> None:
    from sacrebleu import sentence_chrf

    assert score("chrf", "the cat sat on the mat", "a cat sat on a mat") == pytest.approx(
        sentence_chrf("a cat sat on a mat", ["the cat sat on the mat"]).score / 100
    )


def test_rouge_l_of_lins_example() -> None:
    # Lin 2004, section 3.1: "police killed the gunman" against "police kill the gunman": LCS 3, so F1 3/4; the other order has LCS 2.
    assert score("rouge_l", "police killed the gunman", "police kill the gunman") == pytest.approx(0.75)
    assert score("rouge_l", "police killed the gunman", "the gunman kill police") == pytest.approx(0.5)


def test_stop_rate_reads_only_whether_it_stopped() -> None:
    assert score("stop_rate", "x", "x", stopped=False) == 0.0
    assert score("stop_rate", "x", "y", stopped=True) == 1.0


def test_label_accuracy_reads_case_and_full_stop_away() -> None:
    assert score("label_accuracy", "spam", "Spam.\n", labels=WHOLE) == 1.0
    assert score("label_accuracy", "spam", "ham", labels=WHOLE) == 0.0


def test_confusion_counts_every_item_once_and_keeps_unknown_labels() -> None:
    expected = ["ham", "ham", "spam", "spam"]
    table = extras("label_accuracy", expected, ["ham", "spam", "spam", "lottery"], labels=WHOLE)
    assert table["rows"] == ["ham", "spam"]
    assert table["columns"] == ["ham", "spam", "(no known label)"]
    assert table["confusion"] == [[1, 1, 0], [0, 1, 1]]
    assert table["precision_macro"] == pytest.approx((1 + 0.5) / 2)
    assert table["recall_macro"] == pytest.approx(0.5)


def test_metrics_without_a_table_have_none() -> None:
    assert extras("chrf", ["a"], ["a"], labels=FREE) == {}


def test_few_repeating_answers_are_labels() -> None:
    labels = detect(["ham", "spam", "Ham", "spam."] * 3)
    assert (labels.where, labels.values) == ("whole", ("ham", "spam"))
    assert "2 distinct short texts" in labels.reason


def test_a_label_line_before_a_reply_is_found() -> None:
    answers = [f"Label: {name}\nDear customer {i}, reply {i}." for i in range(6) for name in ("refund", "delivery")]
    labels = detect(answers)
    assert labels.where == "first_line"
    assert labels.values == ("label: delivery", "label: refund")
    assert labels.read("label:  Refund \nWhatever follows") == "label: refund"


@pytest.mark.parametrize(
    "answers",
    [
        [f"Free answer number {i}" for i in range(40)],
        ["yes"] * 40,
        ["ham", "spam"] * 3,
        [f"Line {i}\nrest" for i in range(40)],
        ["A stock phrase that is repeated but far too long to be the name of a class", "Another " * 12] * 10,
    ],
)
def test_free_text_one_value_few_rows_and_long_phrases_are_not_labels(answers: list[str]) -> None:
    assert detect(answers).where == "none"


def test_real_labels_are_found(shared: Path) -> None:
    text = (shared / "data" / "ft_sms_spam" / "sms.tsv").read_text(encoding="utf-8")
    answers = [line.split("\t")[0] for line in text.splitlines()[:300] if "\t" in line]
    assert detect(answers).values == ("ham", "spam")
