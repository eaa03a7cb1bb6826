"""What happens to what is registered: projects, environments, limits."""

from typing import Any, Literal

from wtb_ray.events.base import Event
from wtb_ray.rates import LimitSpec


class ProjectRegistered(Event):
    type: Literal["project.registered"] = "project.registered"
    version: str


class ProjectActivated(Event):
    type: Literal["project.activated"] = "project.activated"


class ProjectDeactivated(Event):
    type: Literal["project.deactivated"] = "project.deactivated"


class ProjectRemoved(Event):
    type: Literal["project.removed"] = "project.removed"
    version: str
    """Its newest version."""


class EnvironmentRegistered(Event):
    type: Literal["environment.registered"] = "environment.registered"
    digest: str
    venv: str


class EnvironmentDeleted(Event):
    type: Literal["environment.deleted"] = "environment.deleted"
    digest: str


class LimitSet(Event):
    type: Literal["limit.set"] = "limit.set"
    name: str
    spec: LimitSpec


class LimitRemoved(Event):
    type: Literal["limit.removed"] = "limit.removed"
    name: str


class VenvBuilt(Event):
    type: Literal["venv.built"] = "venv.built"
    host: str
    venv: str
    path: str
    bytes: int
    seconds: float
    packages: dict[str, str]


class VenvFailed(Event):
    type: Literal["venv.failed"] = "venv.failed"
    host: str
    venv: str
    error: dict[str, Any]
    permanent: bool
    """Whether it is the answer until somebody retries."""


class VenvInvalidated(Event):
    type: Literal["venv.invalidated"] = "venv.invalidated"
    host: str
    venv: str


class VenvEvicted(Event):
    type: Literal["venv.evicted"] = "venv.evicted"
    host: str
    venv: str
    path: str
    bytes: int
    reason: str
