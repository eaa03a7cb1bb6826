"""The state of the pipeline: settings, numbers and references to files, never what is in the files."""

from typing import Annotated, Any, Literal, TypedDict, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wtb_ray.errors import InvalidState

Settings = TypeVar("Settings", bound="Checked")


class Artefact(TypedDict):
    """A file that a node left in the workspace, and what it must still be when it is read."""

    ref: str
    """`workspace().ref(path)`: right in every workspace that holds this file."""
    sha256: str
    bytes: int


class Attempt(TypedDict):
    """One training that was evaluated."""

    hyperparameters: dict[str, Any]
    train: float
    validation: float


class State(TypedDict, total=False):
    """What each super-step stores. The first eight may be given as input; `collect` fills them up."""

    seed: int
    rows: int
    """Images to collect."""
    noise: float
    """Deviation of the noise on each pixel, where 1 is from white to black."""
    mislabelled: float
    """Share of the training images with a label drawn at random."""
    target: float
    """Validation accuracy that the quality gate asks for."""
    attempts: int
    """Trainings at most, until the gate rejects for good."""
    approval: str
    """`ask` somebody before deployment, or `automatic` behind the gate."""
    hyperparameters: dict[str, Any]
    """What to train with, instead of what the variant of `tune` or its defaults say."""

    raw: Artefact
    clean: Artefact
    profiled: Artefact
    transform: Artefact
    """How images become features."""
    table: Artefact
    """The features of every image."""
    trying: dict[str, Any]
    """The hyperparameters of the attempt at hand."""
    model: Artefact
    metrics: dict[str, float]
    """Accuracy on each part, and macro-averaged F1 on the test part."""
    report: Artefact
    plot: Artefact
    history: list[Attempt]
    verdict: str
    """What the gate says: `passed`, `again` or `rejected`."""
    decision: dict[str, Any]
    """Whether it may be deployed, and who said so."""
    deployed: Artefact
    monitoring: Artefact


class Checked(BaseModel):
    """Settings from outside: bounded, complete, and nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def of(cls: type[Settings], given: Any) -> Settings:
        """The settings that were given, with defaults for the others.

        Raises:
            InvalidState: One of them is unknown or out of its bounds.
        """
        try:
            return cls.model_validate(given)
        except ValidationError as e:
            first = e.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"]))
            message = f"{field or cls.__name__}: {first['msg']}"
            raise InvalidState(message, field=field, reason=first["type"]) from e


class Task(Checked):
    """What to learn from, and how good it must get."""

    seed: int = Field(0, ge=0, lt=2**32)
    rows: int = Field(1200, ge=100, le=1797)
    noise: float = Field(0.1, ge=0, le=1)
    mislabelled: float = Field(0.0, ge=0, le=0.9)
    target: float = Field(0.93, ge=0, le=1)
    attempts: int = Field(3, ge=1, le=10)
    approval: Literal["ask", "automatic"] = "ask"


class Hyperparameters(Checked):
    """What a training takes: `width` is of the hidden layer, `smoothing` of naive Bayes alone."""

    learning_rate: float = Field(0.02, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    epochs: int = Field(8, ge=1, le=200)
    width: int = Field(48, ge=2, le=256)
    decay: float = Field(1e-4, ge=0)
    smoothing: float = Field(0.1, gt=0)


class Answer(Checked):
    """What whoever approves a deployment answers."""

    approve: bool
    by: Annotated[str, Field(min_length=1, max_length=100)] = "somebody"
    note: Annotated[str, Field(max_length=1000)] = ""
