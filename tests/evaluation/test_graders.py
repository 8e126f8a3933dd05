"""Graders: what they give, what they refuse, and that none can be made to hang or to run anything."""

from __future__ import annotations

import time
from typing import Any

import pytest

from luthier.core.errors import SpecError
from luthier.core.spec import Strict
from luthier.evaluation.graders import GRADERS, grader

GIVEN: list[tuple[dict[str, Any], dict[str, Any], str, float]] = [
    ({"type": "string_check"}, {"answer": "refund"}, " refund\n", 1.0),
    ({"type": "string_check"}, {"answer": "refund"}, "Refund", 0.0),
    ({"type": "string_check", "operation": "ne"}, {"answer": "refund"}, "parcel", 1.0),
    ({"type": "string_check", "operation": "like"}, {"answer": "fun"}, "refund", 1.0),
    ({"type": "string_check", "operation": "ilike"}, {"answer": "FUN"}, "refund", 1.0),
    ({"type": "string_check", "operation": "like"}, {"answer": ""}, "refund", 0.0),
    ({"type": "string_check", "reference": "{{item.deep.1.name}}"}, {"deep": [0, {"name": "x"}]}, "x", 1.0),
    ({"type": "string_check", "input": "{{ sample.output_json.city }}", "reference": "Oslo"}, {}, '{"city": "Oslo"}', 1.0),
    ({"type": "string_check", "input": "{{ sample.output_json.city }}", "reference": "Oslo"}, {}, "no json", 0.0),
    ({"type": "string_check", "input": "{{ sample.output_json.city }}", "reference": ""}, {}, "[" * 100_000, 1.0),
    ({"type": "string_check", "reference": "{{item.deep.²}}"}, {"deep": [0, 1]}, "", 1.0),
    ({"type": "string_check", "reference": "{{item.deep." + "9" * 5000 + "}}"}, {"deep": [0, 1]}, "", 1.0),
    (
        {"type": "string_check", "input": "<{{ item.a }}|{{ item.b }}>", "reference": "<1|{{ sample.output_text }}>"},
        {"a": 1, "b": "x"},
        "x",
        1.0,
    ),
    ({"type": "text_similarity"}, {"answer": "abcd"}, "abcd", 1.0),
    ({"type": "text_similarity"}, {"answer": "abcd"}, "abxd", 0.75),
    ({"type": "text_similarity", "evaluation_metric": "rouge_l"}, {"answer": "a b c d"}, "a b", 2 / 3),
    ({"type": "number"}, {"answer": "#### 1,234.5"}, "So it is 1234.50.", 1.0),
    ({"type": "number"}, {"answer": "12"}, "12 and then 13", 0.0),
    ({"type": "number", "tolerance": 0.1}, {"answer": "100"}, "about 95%", 1.0),
    ({"type": "number"}, {"answer": "-3e2"}, "-300", 1.0),
    ({"type": "number"}, {"answer": "7"}, "none", 0.0),
    ({"type": "regex", "pattern": r"\d{3}-\d{4}"}, {}, "call 555-1234 now", 1.0),
    ({"type": "regex", "pattern": r"\d{3}-\d{4}", "mode": "fullmatch"}, {}, "call 555-1234 now", 0.0),
    ({"type": "label"}, {"answer": "Refund"}, "refund.", 1.0),
    ({"type": "label", "labels": ["card", "card lost", "fee"]}, {"answer": "card lost"}, "It is card lost, I think", 1.0),
    ({"type": "label", "labels": ["card", "card lost", "fee"]}, {"answer": "fee"}, "fee or card", 0.0),
]


@pytest.mark.parametrize(("told", "item", "said", "grade"), GIVEN)
def test_grades(told: dict[str, Any], item: dict[str, Any], said: str, grade: float) -> None:
    assert grader(told)(item, said) == pytest.approx(grade)


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "minLength": 2}, "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2}},
    "required": ["city"],
    "additionalProperties": False,
}
SHAPES = [
    ('{"city": "Oslo"}', 1.0),
    ('```json\n{"city": "Oslo", "tags": ["a"]}\n```', 1.0),
    ('{"city": 5}', 0.5),
    ('{"tags": []}', 0.5),
    ('{"city": "Oslo", "more": 1}', 0.5),
    ('{"city": "Oslo", "tags": ["a", "b", "a"]}', 0.5),
    ('{"city": "Oslo", "tags": ["c"]}', 0.5),
    ("Oslo", 0.0),
    ("[" * 100_000, 0.0),
]


@pytest.mark.parametrize(("said", "grade"), SHAPES, ids=range(len(SHAPES)))
def test_json_is_graded_by_its_shape(said: str, grade: float) -> None:
    assert grader({"type": "json_schema", "json_schema": SCHEMA})({}, said) == grade


def test_shapes_are_those_of_a_full_validator() -> None:
    from jsonschema import Draft202012Validator

    from luthier.evaluation.graders._schema import fits

    schemas: list[Any] = [
        SCHEMA,
        True,
        {"anyOf": [{"type": "null"}, {"const": 1}]},
        {"type": ["integer", "string"], "maximum": 3},
        {"enum": [1, "x"]},
    ]
    values: list[Any] = [None, 1, True, 1.0, 2.5, 4, "x", [], {"city": "Oslo"}, {"city": "O"}, {"city": "Oslo", "tags": [1]}, {}]
    for schema in schemas:
        for value in values:
            assert fits(value, schema) == Draft202012Validator(schema).is_valid(value), (schema, value)


def test_several_count_by_weight() -> None:
    told = {
        "type": "multi",
        "graders": {"right": {"type": "string_check"}, "short": {"type": "regex", "pattern": "^.{1,3}$"}},
        "weights": {"right": 3},
    }
    assert grader(told)({"answer": "yes"}, "yes") == 1.0
    assert grader(told)({"answer": "no"}, "yes") == 0.25


CATASTROPHIC = [r"(a+)+$", r"(a|aa)+$", r"(.*a){20}$", r"^(([a-z])+.)+[A-Z]([a-z])+$", r"(x+x+)+y"]


@pytest.mark.parametrize("pattern", CATASTROPHIC)
def test_no_pattern_hangs(pattern: str) -> None:
    grade = grader({"type": "regex", "pattern": pattern})
    start = time.perf_counter()
    assert grade({}, "a" * 5000 + "!") in (0.0, 1.0)
    assert grade({}, "x" * 5000) in (0.0, 1.0)
    assert time.perf_counter() - start < 5, "two looks of a tenth of a second"


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"type": "regex", "pattern": "(unclosed"}, "does not compile", "bad_pattern"),
    ({"type": "regex", "pattern": "a" * 501}, "too large", "bad_pattern"),
    ({"type": "regex", "pattern": "((a{1000}){1000}){1000}"}, "too large", "bad_pattern"),
    ({"type": "json_schema", "json_schema": {"$ref": "#/x"}}, r"\$ref is not checked", "bad_schema"),
    ({"type": "json_schema", "json_schema": {"properties": {"a": {"pattern": "x"}}}}, "properties.a: pattern is not checked", "bad_schema"),
    ({"type": "json_schema", "json_schema": {"type": "text"}}, "type text is not checked", "bad_schema"),
    ({"type": "python", "source": "import os"}, "no grader called 'python'", "unknown_grader"),
    ({"type": "string_check", "operation": "eval"}, "operation.*does not do", "bad_value"),
    ({"type": "string_check", "inptu": "x"}, "Did you mean input", "unknown_key"),
    ({"operation": "eq"}, "has no type", "bad_value"),
    ({"type": "multi", "graders": {}}, "1 to 16 graders", "bad_value"),
    ({"type": "multi", "graders": {"a": {"type": "multi", "graders": {}}}}, "not multi themselves", "bad_value"),
    ({"type": "multi", "graders": {"a": {"type": "string_check"}}, "weights": {"b": 1}}, "weights name 'b'", "bad_value"),
    ({"type": "multi", "graders": {"a": {"type": "label"}}, "calculate_output": "a + b"}, "there is no grader 'b'", "bad_value"),
    ({"type": "multi", "graders": {"a": {"type": "label"}}, "calculate_output": "open(1)"}, "is not reckoned", "bad_value"),
    ({"type": "multi", "graders": {"a": {"type": "label"}}, "calculate_output": "a" * 501}, "is no formula", "bad_value"),
]


@pytest.mark.parametrize(("told", "words", "code"), WRONG, ids=range(len(WRONG)))
def test_what_would_not_do_is_refused_beforehand(told: dict[str, Any], words: str, code: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        grader(told)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "said", ["{{ item.__class__.__mro__ }}", "{{ ''.__class__ }}", "{{ item.answer.upper() }}", "{{ 7 * 7 }}", "{% for x in y %}"]
)
def test_fields_are_looked_up_and_nothing_is_evaluated(said: str) -> None:
    assert grader({"type": "string_check", "reference": said})({"answer": "x"}, "49") == 0.0
    assert grader({"type": "string_check", "input": said, "reference": said})({"answer": "x"}, "") == 1.0


@pytest.mark.parametrize("name", GRADERS.names())
def test_every_setting_has_its_help(name: str) -> None:
    options: type[Strict] = GRADERS.load(name).Options
    assert all(field.description for field in options.model_fields.values())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0.8 * right + 0.2 * near", 0.9),
        ("min(right, near)", 0.5),
        ("1 - near ^ 2", 0.75),
        ("(right + near) / 2 - 0.25", 0.5),
        ("right / (near - 0.5)", 0.0),
        ("sqrt(-near)", 0.0),
        ("9 ^ 9 ^ 9 ^ 9", 0.0),
        ("-near + 2 * right", 1.0),
    ],
)
def test_a_formula_of_grades(text: str, wanted: float) -> None:
    graders = {"right": {"type": "regex", "pattern": "a"}, "near": {"type": "json_schema", "json_schema": {"type": "string"}}}
    grade = grader({"type": "multi", "graders": graders, "calculate_output": text})
    assert grade({}, '{"a": 1}') == pytest.approx(wanted), "it has an a, and is JSON of another shape"
