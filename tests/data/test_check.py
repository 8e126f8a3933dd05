"""The check finds every kind of problem, all at once, and names file, row, field, code and remedy."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from template_folders import published

from luthier.core.example import Example, Message, Source
from luthier.core.problem import Problem
from luthier.core.spec import DataSpec
from luthier.data import report as reports
from luthier.data.check import check
from luthier.data.content import content, digest
from luthier.data.render import Renderer
from luthier.data.report import Report
from luthier.data.tokens import TokenTable
from luthier.models.catalog import BUNDLED

ROOT = Path(__file__).parents[2]


def chat(*turns: tuple[str, str] | dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"messages": [turn if isinstance(turn, dict) else {"role": turn[0], "content": turn[1]} for turn in turns], **fields}


def good(number: int) -> dict[str, Any]:
    words = " ".join(f"{word}{number * 31 % 97}" for word in ("apple", "pear", "plum", "fig", "quince"))
    return chat(("user", f"What about {words}?"), ("assistant", f"Take {number} of {words[::-1]}."))


def checked(folder: Path, *table: dict[str, Any], **options: Any) -> Report:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in [*map(good, range(12)), *table]))
    data = options.pop("data", DataSpec())
    return check(path, data=data, **options)


def only(report: Report, code: str) -> Problem:
    (found,) = [problem for problem in report.problems if problem.code == code]
    assert found.file.endswith("rows.jsonl")
    assert found.message.endswith(".")
    assert found.remedy
    return found


CALL = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
TOOLS = [{"type": "function", "function": {"name": "weather"}}]


@pytest.mark.parametrize(
    ("row", "code", "field", "words"),
    [
        (chat(("user", "Hi"), ("asistant", "Ho")), "wrong_role", "messages.1.role", "no role 'asistant'"),
        (chat(("user", "Hi"), ("system", "Be kind"), ("assistant", "Ho")), "wrong_order", "messages.1", "after the conversation has begun"),
        (chat(("assistant", "Ho")), "wrong_order", "messages.0", "before any user"),
        (chat(("user", "Hi"), ("tool", "x"), ("assistant", "Ho")), "wrong_order", "messages.1", "without having been called"),
        (chat(("user", "Hi"), ("assistant", " \n")), "empty_answer", "messages.1.content", "says nothing"),
        (chat(("user", "Hi")), "no_assistant", "messages", "nothing to learn"),
        (chat(("user", "Hi"), {"role": "assistant", "content": "Ho", "wieght": 0}), "unknown_field", "messages.1.wieght", "'wieght'"),
        (chat(("user", "Hi"), ("assistant", "Ho"), tool=[]), "unknown_field", "tool", "'tool'"),
        (chat(("user", "Hi"), {"role": "assistant", "content": "Ho", "weight": 2}), "bad_weight", "messages.1.weight", "is 2"),
        (chat(("user", "Hi"), {"role": "assistant", "content": "Ho", "weight": 0}), "teaches_nothing", "messages", "weight 0"),
        (
            chat(("user", "Hi"), {"role": "assistant", "tool_calls": [CALL]}),
            "tool_call_without_tool",
            "messages.1.tool_calls.0.function.name",
            "no tools",
        ),
        (
            chat(
                ("user", "Hi"),
                {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "weather", "arguments": "{oslo"}}]},
                tools=TOOLS,
            ),
            "bad_tool_arguments",
            "messages.1.tool_calls.0.function.arguments",
            "not a JSON object",
        ),
        (
            chat(
                ("user", "Hi"),
                {"role": "assistant", "tool_calls": [CALL]},
                {"role": "tool", "content": "x", "tool_call_id": "d"},
                ("assistant", "Ho"),
                tools=TOOLS,
            ),
            "wrong_order",
            "messages.2.tool_call_id",
            "id 'd'",
        ),
        (chat(("user", 3.5), ("assistant", {"a": 1})), "wrong_type", "messages.1.content", "an object"),
        (
            chat(("user", [{"type": "file", "file": {}}]), ("assistant", "Ho")),
            "unsupported_media",
            "messages.0.content.0",
            "'file'",
        ),
        (
            chat(("user", [{"type": "image_url", "image_url": {"url": "gone.png"}}]), ("assistant", "Ho")),
            "no_picture",
            "messages.0.content.0.image_url",
            "'gone.png'",
        ),
    ],
)
def test_errors(tmp_path: Path, row: dict[str, Any], code: str, field: str, words: str) -> None:
    report = checked(tmp_path, row)
    found = only(report, code)
    assert (found.row, found.field, found.severity) == (13, field, "error")
    assert words in found.message
    assert not report.ok
    assert (report.rows, report.good) == (13, 12)


@pytest.mark.parametrize(
    ("row", "code", "words"),
    [
        (good(4), "exact_duplicate", "same as row 5"),
        (chat(("user", "Hi"), ("assistant", "Ho"), ("user", "Well?")), "ends_without_answer", "user turn"),
        (chat(("user", "Hi"), ("user", "Hello?"), ("assistant", "Ho")), "repeated_role", "follow each other"),
        (chat(("user", "Hi"), ("assistant", "Ho"), customer=4), "unknown_field", "'customer' is not used"),
        (chat(("user", "I am ann@example.com"), ("assistant", "Ho")), "personal_data", "1 x e-mail address"),
        (chat(("user", "Key AKIAABCDEFGHIJKLMNOP"), ("assistant", "Ho")), "likely_secret", "1 x AWS key"),
    ],
)
def test_warnings(tmp_path: Path, row: dict[str, Any], code: str, words: str) -> None:
    report = checked(tmp_path, row)
    found = only(report, code)
    assert (found.row, found.severity) == (13, "warning")
    assert words in found.message
    assert report.ok
    assert "ann@" not in found.message
    assert "AKIA" not in found.message


def test_preference_rules(tmp_path: Path) -> None:
    table = [{"prompt": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(12)]
    table += [{"prompt": "q", "chosen": "same", "rejected": "same"}, {"prompt": "q", "chosen": " ", "rejected": "bad"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, table)))
    report = check(path, data=DataSpec())
    assert (only(report, "same_answers").row, only(report, "empty_answer").row) == (13, 14)


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    report = checked(tmp_path, chat(("user", "Hi")), chat(("user", "Hi"), ("assistant", "")), {"messages": 3})
    assert {problem.row for problem in report.problems if problem.severity == "error"} == {13, 14, 15}
    assert json.loads(json.dumps(report.to_json()))["counts"]["no_assistant"] == 1


def test_near_duplicates_and_system_prompts(tmp_path: Path) -> None:
    system = ("system", "You are the desk of a shop. " * 20)
    text = "My parcel with the blue lamp has not arrived although the page says it was delivered on Monday to my neighbour. Where is it?"
    table = [
        chat(system, ("user", text), ("assistant", "I am looking for it.")),
        chat(system, ("user", text.replace("Monday", "Tuesday")), ("assistant", "I am looking for it.")),
        chat(system, ("user", "Do you sell green chairs for gardens in winter?"), ("assistant", "No, sorry.")),
    ]
    found = only(checked(tmp_path, *table), "near_duplicate")
    assert found.row == 14
    assert "nearly row 13" in found.message
    refused = checked(tmp_path, *table, data=DataSpec(allow_near_duplicates=False))
    assert only(refused, "near_duplicate").severity == "error"


def test_rows_of_the_held_out_file_are_checked_as_well(tmp_path: Path) -> None:
    held = tmp_path / "held.jsonl"
    rows = [good(50), chat(("user", "And now?")), chat(("user", "Where?"), ("assistant", " "))]
    held.write_text("\n".join([*map(json.dumps, rows), "{broken"]))
    report = checked(tmp_path, valid=held)
    found = {(problem.row, problem.code) for problem in report.problems if problem.file == str(held)}
    assert found == {(2, "no_assistant"), (3, "empty_answer"), (4, "invalid_json")}
    assert (report.rows, report.good, report.errors) == (12, 12, 3), "its rows are not counted among those that are learned"


def test_leakage_into_the_held_out_file(tmp_path: Path) -> None:
    held = tmp_path / "held.csv"
    row = good(5)["messages"]
    held.write_text(f'prompt,completion\n"{row[0]["content"]}","{row[1]["content"]}"\n')
    found = only(checked(tmp_path, valid=held), "leakage")
    assert (found.row, found.severity) == (6, "error")
    assert "held.csv row 2" in found.message


def test_too_few_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(good(n)) for n in range(9)))
    assert "9 rows can be learned from" in only(check(path, data=DataSpec()), "too_few_rows").message


def test_label_imbalance(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"text": f"text {n} {n * n}", "label": "common" if n else "rare"} for n in range(41)]
    path.write_text("\n".join(map(json.dumps, rows)))
    report = check(path, data=DataSpec())
    assert "rare (1)" in only(report, "label_imbalance").message
    assert report.labels == {"common": 40, "rare": 1}


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer.from_folder(BUNDLED / "luthier-mini")


def test_rows_longer_than_the_model_reads(tmp_path: Path, renderer: Renderer) -> None:
    long = chat(("user", "Hi"), ("assistant", "word " * 300))
    asked = {"renderer": renderer, "context": 200}
    report = checked(tmp_path, long, **asked)
    found = only(report, "too_long")
    tokens = len(renderer.render(Example(Source("", 0), messages=[Message("user", "Hi"), Message("assistant", "word " * 300)]))[0].tokens)
    assert (found.row, found.severity, found.message) == (13, "error", f"{tokens} tokens, but the model reads 200.")
    assert (report.good, report.tokens) == (12, None)
    found = only(checked(tmp_path, long, **asked, data=DataSpec(too_long="drop")), "too_long")
    assert (found.severity, f"dropped: {tokens} tokens" in found.message) == ("warning", True)


def test_every_row_is_rendered_and_what_the_template_refuses_is_named(tmp_path: Path, shared: Path) -> None:
    gemma = Renderer.from_folder(published(shared, tmp_path, "google-gemma-2-2b-it"))
    rows = [good(n) for n in range(12, 300)]
    report = checked(tmp_path, *rows, chat(("system", "Be kind."), ("user", "Hi"), ("assistant", "Ho")), renderer=gemma, context=4096)
    found = only(report, "template_refuses")
    assert (found.row, found.severity, report.good) == (301, "error", 300)


def test_the_same_question_again_is_answered_without_reading(tmp_path: Path, renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    held = tmp_path / "held.jsonl"
    held.write_text("\n".join(json.dumps(good(n)) for n in range(20, 24)))
    asked = {"renderer": renderer, "context": 200, "cache": tmp_path / "cache", "valid": held}
    first = checked(tmp_path, good(3), **asked)
    with monkeypatch.context() as patch:
        patch.setattr("luthier.data.check.survey", None)
        again = checked(tmp_path, good(3), **asked)
        with pytest.raises(TypeError):
            checked(tmp_path, good(3), **asked, data=DataSpec(learn="last_answer"))
    assert again.to_json() == first.to_json()
    assert first.counts["exact_duplicate"] == 1
    assert [row.source for row in again.tokens] == [row.source for row in first.tokens]
    assert [row.source for row in again.held_out] == [Source(str(held), number) for number in range(1, 5)]
    assert [lots.numbers().tolist() for lots in again.lots] == [[*range(1, 14)], [*range(1, 5)]]
    victim = tmp_path / "cache" / first.tokens.name / "tokens.arrow"
    victim.write_bytes(victim.read_bytes()[:-1])
    assert checked(tmp_path, good(3), **asked).to_json() == first.to_json(), "a damaged table is made again"
    assert len(TokenTable.open(victim.parent)) == 13


def test_a_file_with_errors_leaves_no_table(tmp_path: Path, renderer: Renderer) -> None:
    report = checked(tmp_path, chat(("user", "Hi")), renderer=renderer, context=200, cache=tmp_path / "cache")
    assert (report.errors, report.tokens) == (1, None)
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_unknown_format_is_a_report_not_an_exception(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"foo": 1}')
    report = check(path, data=DataSpec())
    assert (report.ok, report.recognition.format, report.problems[0].code) == (False, "unknown", "unknown_format")


def test_problems_are_kept_up_to_a_limit_and_counted_beyond(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "KEPT", 3)
    report = checked(tmp_path, *[chat(("user", f"{n}")) for n in range(8)])
    assert report.counts["no_assistant"] == 8
    assert sum(problem.code == "no_assistant" for problem in report.problems) == 3
    assert "Of no_assistant the first 3 are listed" in report.notes[0]


def test_progress_is_told_in_bytes(tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    report = checked(tmp_path, on_progress=lambda done, total: heard.append((done, total)))
    assert heard[-1] == (report.bytes, report.bytes)


def test_real_files_pass_or_fail_as_they_should(shared: Path) -> None:
    toy = check(shared / "data/ft_openai_cookbook/toy_chat_fine_tuning.jsonl", data=DataSpec())
    assert {(problem.row, problem.code) for problem in toy.problems} == {(4, "wrong_order"), (0, "too_few_rows")}
    tools = check(shared / "data/ft_llamafactory/glaive_toolcall_en_demo.json", data=DataSpec())
    assert tools.ok
    assert tools.rows == tools.good == 300
    media = check(shared / "data/ft_llamafactory/mllm_demo.json", data=DataSpec())
    assert {(problem.row, problem.code) for problem in media.problems} == {(0, "too_few_rows")}


def test_every_code_has_an_entry_in_the_docs() -> None:
    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^### `(\w+)`$", page, flags=re.MULTILINE))
    used: set[str] = set()
    for path in [*ROOT.glob("src/luthier/data/**/*.py")]:
        if path.name in OURS or path.parent.name in ("readers", "containers"):
            used |= {code for match in CODE.finditer(path.read_text(encoding="utf-8")) for code in match.groups() if code}
    assert len(used) > 30
    assert used <= documented, f"not in docs/errors.md: {sorted(used - documented)}"


OURS = {"bytes.py", "head.py", "json_rows.py", "read.py", "recognise.py", "check.py", "scan.py", "rules.py", "split.py"}
CODE = re.compile(
    r'code="(\w+)"|findings\.add\([^,]+, "(\w+)"|self\.add\([^,]+, "(\w+)"|Flaw\([^,]+, [^,]+, "(\w+)"'
    r'|yield [^,\n]+, "(\w+)", f?"|self\.warn\([^,]+, "(\w+)"|Flaw\(\s*row,\s*"",\s*"(\w+)"|yield "(\w+)", f?"'
    r'|_problem\(example, "(\w+)"|"(likely_secret)"|"(personal_data)"'
)


def test_equal_words_with_other_tools_are_no_duplicates() -> None:
    tool = {"type": "function", "function": {"name": "find"}}
    rows = [Example(Source("f", 1), messages=[Message("user", "a")], tools=tools) for tools in ([], [tool], [tool])]
    first, second, third = (digest(content(row)) for row in rows)
    assert first != second == third
