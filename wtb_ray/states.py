"""Statuses and the only legal changes between them, as data.

`TRANSITIONS[kind][command]` is `(from statuses, to status)`. The store's compare-and-set
statements take their predicates from here and the SQL CHECK constraints are tested against it.
"""

from enum import StrEnum
from typing import Final


class ExecutionStatus(StrEnum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class CellStatus(StrEnum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SCORING = "SCORING"
    DONE = "DONE"
    FAILED = "FAILED"
    EXCLUDED = "EXCLUDED"
    CANCELLED = "CANCELLED"


class BatchStatus(StrEnum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class RunnerStatus(StrEnum):
    STARTING = "STARTING"
    READY = "READY"
    DRAINING = "DRAINING"
    DEAD = "DEAD"


class VenvStatus(StrEnum):
    """How an environment stands on one host."""

    BUILDING = "BUILDING"
    READY = "READY"
    FAILED = "FAILED"
    INVALID = "INVALID"
    """Not to be used any more, and removed once nobody holds it."""


class CollectionStatus(StrEnum):
    MARKING = "MARKING"
    SWEEPING = "SWEEPING"
    """What is to be deleted is chosen."""
    DONE = "DONE"
    FAILED = "FAILED"
    """Nothing was deleted."""
    ABANDONED = "ABANDONED"
    """It was cut off before anything was chosen."""


class PauseReason(StrEnum):
    REQUESTED = "requested"
    BREAKPOINT = "breakpoint"
    INTERRUPT = "interrupt"


class Wanted(StrEnum):
    """What the owner of an execution is asked to do; read with every group commit."""

    RUN = "run"
    PAUSE = "pause"
    STOP = "stop"
    STEP = "step"
    """Run one super-step."""
    DRAIN = "drain"
    """Give it back at the next boundary."""


class PauseStrategy(StrEnum):
    """What a paused execution keeps of what it has for itself; see `wtb_ray.parking`."""

    HOT = "hot"
    WARM = "warm"
    COLD = "cold"


E, C, B, R = ExecutionStatus, CellStatus, BatchStatus, RunnerStatus
V = VenvStatus


EXECUTION: Final[dict[str, tuple[frozenset[ExecutionStatus], ExecutionStatus]]] = {
    "start": (frozenset({E.PENDING}), E.RUNNING),
    "pause": (frozenset({E.PENDING, E.RUNNING}), E.PAUSED),
    "resume": (frozenset({E.PAUSED}), E.PENDING),
    "retry": (frozenset({E.FAILED}), E.PENDING),
    "stop": (frozenset({E.PENDING, E.RUNNING, E.PAUSED}), E.CANCELLED),
    "complete": (frozenset({E.RUNNING}), E.COMPLETED),
    "fail": (frozenset({E.PENDING, E.RUNNING}), E.FAILED),
    "requeue": (frozenset({E.RUNNING}), E.PENDING),
    "rollback": (frozenset({E.COMPLETED, E.FAILED, E.CANCELLED, E.PAUSED}), E.PAUSED),
}

CELL: Final[dict[str, tuple[frozenset[CellStatus], CellStatus]]] = {
    "start": (frozenset({C.PENDING}), C.RUNNING),
    "score": (frozenset({C.RUNNING}), C.SCORING),
    "done": (frozenset({C.SCORING}), C.DONE),
    "fail": (frozenset({C.PENDING, C.RUNNING, C.SCORING}), C.FAILED),
    "exclude": (frozenset({C.PENDING, C.FAILED, C.DONE}), C.EXCLUDED),
    "cancel": (frozenset({C.PENDING, C.RUNNING, C.SCORING}), C.CANCELLED),
    "rerun": (frozenset({C.FAILED, C.CANCELLED, C.EXCLUDED}), C.PENDING),
    "rescore": (frozenset({C.DONE}), C.SCORING),
}

BATCH: Final[dict[str, tuple[frozenset[BatchStatus], BatchStatus]]] = {
    "start": (frozenset({B.PENDING}), B.RUNNING),
    "pause": (frozenset({B.PENDING, B.RUNNING}), B.PAUSED),
    "resume": (frozenset({B.PAUSED}), B.RUNNING),
    "complete": (frozenset({B.RUNNING}), B.COMPLETED),
    "fail": (frozenset({B.PENDING, B.RUNNING}), B.FAILED),
    "stop": (frozenset({B.PENDING, B.RUNNING, B.PAUSED}), B.CANCELLED),
    "reopen": (frozenset({B.COMPLETED, B.FAILED, B.CANCELLED}), B.RUNNING),
}

RUNNER: Final[dict[str, tuple[frozenset[RunnerStatus], RunnerStatus]]] = {
    "ready": (frozenset({R.STARTING}), R.READY),
    "drain": (frozenset({R.STARTING, R.READY}), R.DRAINING),
    "die": (frozenset({R.STARTING, R.READY, R.DRAINING}), R.DEAD),
}

VENV: Final[dict[str, tuple[frozenset[VenvStatus], VenvStatus]]] = {
    "build": (frozenset(V), V.BUILDING),
    "ready": (frozenset({V.BUILDING, V.FAILED, V.INVALID}), V.READY),
    "fail": (frozenset({V.BUILDING}), V.FAILED),
    "invalidate": (frozenset({V.READY, V.FAILED}), V.INVALID),
    "retry": (frozenset({V.FAILED}), V.INVALID),
}

TERMINAL_EXECUTION: Final = frozenset({E.COMPLETED, E.FAILED, E.CANCELLED})
TERMINAL_CELL: Final = frozenset({C.DONE, C.FAILED, C.EXCLUDED, C.CANCELLED})
TERMINAL_BATCH: Final = frozenset({B.COMPLETED, B.FAILED, B.CANCELLED})
