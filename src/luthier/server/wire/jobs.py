"""Fine-tuning jobs, their events and checkpoints."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from luthier.server.wire._base import Answer, Asked, Id, Int, Luthier, Metadata, Number, maybe

Auto = Literal["auto"]
Epochs = Annotated[Int, Field(ge=1, le=50)]
BatchSize = Annotated[Int, Field(ge=1, le=256)]
Multiplier = Annotated[Number, Field(gt=0)]
ComputeMultiplier = Annotated[Number, Field(ge=1e-5, le=10)]
EvalInterval = Annotated[Int, Field(ge=1)]
Beta = Annotated[Number, Field(gt=0, le=2)]

JobStatus = Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]


class Hyperparameters(Asked):
    """Numbers of the optimisation; what is left out is derived."""

    n_epochs: Auto | Epochs | None = None
    batch_size: Auto | BatchSize | None = None
    learning_rate_multiplier: Auto | Multiplier | None = None


class PreferenceHyperparameters(Hyperparameters):
    """As above, and how far the answers may move from those of the base."""

    beta: Auto | Beta | None = None


class Supervised(Asked):
    """Learn the answers of the examples."""

    hyperparameters: Hyperparameters = Hyperparameters()


class Preference(Asked):
    """Learn which of two answers is better."""

    hyperparameters: PreferenceHyperparameters = PreferenceHyperparameters()


class ReinforcementHyperparameters(Hyperparameters):
    """As above; how many answers are tried, as a share of the usual 8, and after how many steps held-out rows are answered."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"eval_samples", "reasoning_effort"})

    compute_multiplier: Auto | ComputeMultiplier | None = None
    eval_interval: Auto | EvalInterval | None = None
    eval_samples: Auto | EvalInterval | None = None
    reasoning_effort: Literal["default", "low", "medium", "high"] | None = None


class Reinforcement(Asked):
    """Learn what a grader likes. Graders: string_check, text_similarity, number, regex, json_schema, label, and multi."""

    grader: dict[str, Any]
    hyperparameters: ReinforcementHyperparameters = ReinforcementHyperparameters()


class AskedMethod(Asked):
    """What is learned from the examples."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: Preference | None = None
    reinforcement: Reinforcement | None = None


class CreateJob(Asked):
    """A model to be tuned on a file. The `luthier` object takes any setting of a Spec: ``{"method": {"name": "lora", "rank": 8}}``."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"integrations"})

    model: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    training_file: Id
    validation_file: Id | None = None
    suffix: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    seed: Annotated[Int, Field(ge=0, le=2**31 - 1)] | None = None
    method: AskedMethod | None = None
    hyperparameters: Hyperparameters | None = None
    integrations: Annotated[list[dict[str, Any]], Field(max_length=5)] | None = None
    metadata: Metadata | None = None
    luthier: dict[str, Any] | None = None


class JobError(Answer):
    """Why a job failed. param: the field whose file or value was at fault."""

    code: str
    message: str
    param: str | None


class JobHyperparameters(Answer):
    """As asked, or as derived."""

    n_epochs: Auto | int | None = maybe()
    batch_size: Auto | int | None = maybe()
    learning_rate_multiplier: Auto | float | None = maybe()
    beta: Auto | float | None = maybe()
    compute_multiplier: Auto | float | None = maybe()
    eval_interval: Auto | int | None = maybe()


class ShownMethod(Answer):
    """One of them, by type."""

    hyperparameters: JobHyperparameters


class ShownGraded(ShownMethod):
    """As above, and who grades, as it was asked for."""

    grader: dict[str, Any]


class JobMethod(Answer):
    """The method of a job, with its numbers."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: ShownMethod | None = maybe()
    dpo: ShownMethod | None = maybe()
    reinforcement: ShownGraded | None = maybe()


class JobLuthier(Luthier):
    """Beyond the wire: what the user wants of a job that still runs, place in the queue (1 is next), verdict and certificate of a finished
    job, its whole Spec, name of its run."""

    wanted: str | None = maybe()
    queue_position: int | None = maybe()
    verdict: dict[str, Any] | None = maybe()
    certificate: dict[str, Any] | None = maybe()
    spec: dict[str, Any] | None = maybe()
    run: str | None = maybe()


class Job(Answer):
    """``ftjob-...``"""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: JobStatus
    hyperparameters: JobHyperparameters
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: int | None
    error: JobError | None
    seed: int
    estimated_finish: int | None
    integrations: list[dict[str, Any]] | None
    metadata: dict[str, str] | None
    method: JobMethod
    luthier: JobLuthier | None = maybe()


class Jobs(Answer):
    """One page of jobs."""

    object: Literal["list"] = "list"
    data: list[Job]
    has_more: bool


class JobEvent(Answer):
    """``ftevent-...``"""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] | None = maybe()


class JobEvents(Answer):
    """One page of events."""

    object: Literal["list"] = "list"
    data: list[JobEvent]
    has_more: bool


class CheckpointMetrics(Answer):
    """Of the step, and of all held-out rows."""

    step: float | None = maybe()
    train_loss: float | None = maybe()
    train_mean_token_accuracy: float | None = maybe()
    valid_loss: float | None = maybe()
    valid_mean_token_accuracy: float | None = maybe()
    full_valid_loss: float | None = maybe()
    full_valid_mean_token_accuracy: float | None = maybe()


class JobCheckpoint(Answer):
    """``ftckpt_...``"""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: CheckpointMetrics


class Forecast(Answer):
    """What a job would take, before it is asked for: `luthier.jobs.forecast.Forecast` says what each number means."""

    object: Literal["fine_tuning.job.forecast"] = "fine_tuning.job.forecast"
    rows: int
    held_out: int
    tokens: int
    steps: int
    seconds: float
    basis: str
    memory_bytes: int
    available_bytes: int
    fits: bool
    remedy: str
    disk_bytes: int
    price: float
    currency: str
    luthier: Luthier | None = maybe()


class CreatePermissions(Asked):
    """Projects that may use a checkpoint."""

    project_ids: Annotated[list[Id], Field(min_length=1, max_length=100)]


class Permission(Answer):
    """``cp_...``"""

    id: str
    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    created_at: int
    project_id: str


class PermissionDeleted(Answer):
    """The project may no longer use the checkpoint."""

    id: str
    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    deleted: bool
