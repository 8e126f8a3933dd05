"""Graders that are tried before a job learns from them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from luthier.server.wire._base import Answer, Asked, Luthier, maybe

LONGEST_SAMPLE = 100_000
"""Characters of an answer that is graded: more than any model here writes."""


class ValidateGrader(Asked):
    """Would this grader do? Graders: string_check, text_similarity, number, regex, json_schema, label, and multi."""

    grader: dict[str, Any]


class RunGrader(ValidateGrader):
    """What would this grader give? item: the fields of a row, ``{{ item.answer }}`` and others; those it has not are empty texts."""

    model_sample: Annotated[str, StringConstraints(max_length=LONGEST_SAMPLE)]
    item: dict[str, Any] = Field(default_factory=dict)


class GraderValidated(Answer):
    """The grader, as it was asked for."""

    grader: dict[str, Any]
    luthier: Luthier | None = maybe()


class GraderErrors(Answer):
    """None of them happens here: a grader that cannot work is refused (400), and no code and no model is asked."""

    formula_parse_error: bool = False
    sample_parse_error: bool = False
    truncated_observation_error: bool = False
    unresponsive_reward_error: bool = False
    invalid_variable_error: bool = False
    other_error: bool = False
    python_grader_server_error: bool = False
    python_grader_server_error_type: str | None = None
    python_grader_runtime_error: bool = False
    python_grader_runtime_error_details: str | None = None
    model_grader_server_error: bool = False
    model_grader_refusal_error: bool = False
    model_grader_parse_error: bool = False
    model_grader_server_error_details: str | None = None


class GraderMetadata(Answer):
    """name: as asked for, or its type. execution_time: seconds. scores: by name, 0 to 1."""

    name: str
    type: str
    errors: GraderErrors = GraderErrors()
    execution_time: float
    scores: dict[str, float]
    token_usage: int | None = None
    sampled_model_name: str | None = None


class GraderRun(Answer):
    """reward: 0 to 1. sub_rewards: those of the graders of a multi, by name."""

    reward: float
    metadata: GraderMetadata
    sub_rewards: dict[str, float]
    model_grader_token_usage_per_model: dict[str, Any] = Field(default_factory=dict)
    luthier: Luthier | None = maybe()
