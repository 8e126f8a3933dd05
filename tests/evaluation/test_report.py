"""The report: whole, self-contained, escaped; with whatever parts a run has."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.core.events import Stepped, Validated
from luthier.core.spec import EvaluateSpec, Spec
from luthier.evaluation import certificate
from luthier.evaluation.evaluate import evaluate
from luthier.evaluation.items import Answer, Item
from luthier.evaluation.plot import Line, chart, thinned, ticks
from luthier.evaluation.report import ends, report

from .conftest import Tuned

NASTY = '<script>alert("x")</script>&<b>'


@pytest.fixture(scope="module")
def run(tuned: Tuned, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, its evaluation made for real, its other files as a run writes them."""
    folder = tmp_path_factory.mktemp("runs") / "20260101-days-lora-0001"
    evaluate(tuned.model, tuned.method, tuned.held_out[:12], tuned.rows[:12], spec=EvaluateSpec(resamples=200), folder=folder)
    certificate.write(tuned.model, tuned.method, tuned.held_out[:2], folder)
    (folder / "spec.yaml").write_text(json.dumps(Spec.parse({"data": {"file": f"{NASTY}.jsonl"}}).model_dump(mode="json")))
    steps = [Stepped(n, 30, 2 / n, 40, 300, 0.1, 0.001, 1.0).to_json() for n in range(1, 31)] + [Validated(15, 0.4, best=True).to_json()]
    (folder / "steps.jsonl").write_text("".join(json.dumps(s) + "\n" for s in steps))
    pq.write_table(pa.table({"total": [100, 50], "learned": [20, 10], "masked": [80, 40], "cut": [0, 0]}), folder / "ledger.parquet")
    problem = {"row": 3, "severity": "warning", "message": f"odd {NASTY}", "remedy": "Look."}
    (folder / "data.json").write_text(json.dumps({"problems": [problem]}))
    report(folder)
    return folder


def page(run: Path) -> str:
    return (run / "report.html").read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Counts tags and checks that they close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_runs_nothing(run: Path) -> None:
    tags = Tags()
    tags.feed(page(run))
    assert tags.open == []
    assert not tags.seen & {"script", "link", "img", "iframe", "object", "form", "base"}


def test_the_page_reaches_no_network(run: Path) -> None:
    text = page(run)
    assert "default-src 'none'" in text
    assert not re.search(r"(?i)\b(src|href|url|@import)\s*[=(]|https?://", text)


def test_what_the_data_says_is_escaped(run: Path) -> None:
    assert NASTY not in page(run)
    assert page(run).count("&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;&amp;&lt;b&gt;") >= 2


def test_every_part_is_told(run: Path) -> None:
    text = page(run)
    summary = json.loads((run / "evaluation" / "summary.json").read_text())
    for words in (
        summary["verdict"]["sentence"],
        "label accuracy",
        "bits per byte",
        "held-out loss",
        "learning rate",
        "150",
        "odd ",
        "Look.",
    ):
        assert words in text
    assert "<mark>" in text
    assert "12 of 12 held-out rows" in text
    assert "train.learning_rate" in text
    assert "Certificate: 2 probes in float32" in text


def test_a_run_with_nothing_yet_still_has_a_page(tmp_path: Path) -> None:
    report(tmp_path)
    assert "Not compared with its base." in page(tmp_path)
    assert "<svg" not in page(tmp_path)


def item(row: int, base: float, tuned: float) -> Item:
    return Item("f", row, [], "", Answer("", 1, True, {"m": base}), Answer("", 1, True, {"m": tuned}))


def test_ends_are_the_largest_gains_and_losses() -> None:
    items = [item(1, 0, 1), item(2, 1, 0), item(3, 0.5, 0.5), item(4, 0, 0.2), item(5, 1, 1)]
    assert [i.row for i in ends(items, "m", best=True)] == [1, 4]
    assert [i.row for i in ends(items, "m", best=False)] == [2, 3, 4]
    assert ends(items, "unknown", best=True) == []


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.013, 0.0172), (-3.0, 250.0), (5.0, 5.0), (0.0, 0.0), (1e-6, 3e-4)])
def test_ticks_are_round_and_enclose(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low + 1e-12
    assert found[-1] >= high - 1e-12
    assert 2 <= len(found) <= 12
    step = found[1] - found[0]
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in (1, 2, 5)


def test_a_chart_is_valid_svg_and_leaves_out_what_is_not_finite() -> None:
    svg = str(chart([Line('a"<', "train", [(1, 2.0), (2, float("nan")), (3, 1.0)])], x="step", y="loss"))
    (line,) = [e for e in ElementTree.fromstring(svg).iter() if e.tag == "polyline"]
    assert len(line.attrib["points"].split()) == 2
    assert chart([Line("a", "train", [])], x="step", y="loss") == ""


def test_thinning_keeps_the_mean() -> None:
    points = [(float(i), float(i % 2)) for i in range(6000)]
    assert len(thinned(points)) == 600
    assert sum(p[1] for p in thinned(points)) / 600 == pytest.approx(0.5)
    assert thinned(points[:5]) == points[:5]
