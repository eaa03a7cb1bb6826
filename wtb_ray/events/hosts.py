"""What happens on hosts: runners, workspaces, and what checks them."""

from typing import Literal

from wtb_ray.events.base import Event


class WorkspaceKept(Event):
    type: Literal["workspace.kept"] = "workspace.kept"
    host: str
    path: str
    reason: str


class InputsHealed(Event):
    type: Literal["workspace.inputs_healed"] = "workspace.inputs_healed"
    host: str
    paths: list[str]


class WorkspacesSwept(Event):
    type: Literal["workspaces.swept"] = "workspaces.swept"
    host: str
    removed: int
    freed_bytes: int
    kept: int


class RunnerStarted(Event):
    type: Literal["runner.started"] = "runner.started"
    runner: str
    pool: str
    epoch: int
    host: str
    pid: int


class RunnerLost(Event):
    type: Literal["runner.lost"] = "runner.lost"
    runner: str
    reason: str
    executions: int


class RunnerLagged(Event):
    type: Literal["runner.lagged"] = "runner.lagged"
    runner: str
    lag_ms: float
    nodes: list[str]


class RunnerShort(Event):
    """A runner takes no more work until there is memory again."""

    type: Literal["runner.short"] = "runner.short"
    runner: str
    whose: str
    """`process` or `host`."""
    reason: str


class RunnerUnplaced(Event):
    """No runner can be started for a version, so that its work waits."""

    type: Literal["runner.unplaced"] = "runner.unplaced"
    version: str
    reason: str


class IntegrityChecked(Event):
    type: Literal["integrity.checked"] = "integrity.checked"
    report: str
    deep: bool
    healthy: bool
    kinds: dict[str, int]
    """Findings by kind."""
    severities: dict[str, int]


class IntegrityRepaired(Event):
    type: Literal["integrity.repaired"] = "integrity.repaired"
    report: str
    finding: str
    problem: str
    ids: dict[str, str]
    what: str
    """What was done."""
