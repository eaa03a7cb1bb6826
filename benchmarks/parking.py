"""What a pause costs, and how soon an execution goes on from hot, warm and cold.

On a stack as `wtb up` starts it, with 500 tracked files in the workspace, in a pooled runner and in
a process of its own. `pause` is from the end of the node that runs to the execution at rest, with
its files kept; `resume` from the command over HTTP to the first line of the next node.
"""

import asyncio
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

from benchmarks import common
from wtb_ray.db import Database
from wtb_ray.events import Cursor
from wtb_ray.sdk import FileTrackingConfig, WorkflowProject, WorkspaceIsolationConfig
from wtb_ray.states import PauseStrategy
from wtb_ray.store import Store

FILES: Final = 500
LIMITS: Final = {"hot": 1000.0, "warm": 1500.0, "cold": 3000.0}
"""Most milliseconds that going on in a pooled runner may take at the median."""
PATIENCE_S: Final = 120.0

Isolation = Literal["runner", "process"]
Times = dict[str, dict[str, float]]


def run(*, repeats: int = 10) -> tuple[dict[str, Any], list[common.Target]]:
    """Measures all strategies; gives the result to be written and the targets."""
    measured: dict[str, Times] = {}
    with common.stack(lease_ttl_s=15, runners_per_pool=2) as stack:
        for isolation in ("runner", "process"):
            measured[isolation] = measure(stack, isolation, repeats)
    rows = [
        (f"{strategy}, {isolation}", *(f"{value:.0f}" for value in times.values()))
        for isolation, strategies in measured.items()
        for strategy, times in strategies.items()
    ]
    common.table(("ms", "pause p50", "p95", "resume p50", "p95"), rows)
    targets = [
        common.Target(
            f"resume from {name}", measured["runner"][name]["resume_p50"], limit, unit=" ms"
        )
        for name, limit in LIMITS.items()
    ]
    return {"files": FILES, "repeats": repeats, "ms": measured}, targets


def measure(stack: common.Stack, isolation: Isolation, repeats: int) -> Times:
    """Milliseconds by strategy: `pause_p50`, `pause_p95`, `resume_p50`, `resume_p95`."""
    name = f"parking-{isolation}"
    stack.bench.register_project(
        WorkflowProject(
            name=name,
            graph_factory="graphs:parked",
            root=common.HERE,
            file_tracking=FileTrackingConfig(),
            workspace_isolation=WorkspaceIsolationConfig(isolation=isolation),
        )
    )
    found: Times = {}
    for strategy in PauseStrategy:
        once(stack, name, strategy)  # the first one pays for what is made once
        times = [once(stack, name, strategy) for _ in range(repeats)]
        found[str(strategy)] = {
            f"{what}_{at}": value
            for what, values in zip(("pause", "resume"), zip(*times, strict=True), strict=True)
            for at, value in (("p50", statistics.median(values)), ("p95", p95(values)))
        }
    return found


def once(stack: common.Stack, project: str, strategy: PauseStrategy) -> tuple[float, float]:
    """Milliseconds of one pause and one resume."""
    place = stack.data_dir / f"{time.monotonic_ns()}"
    place.mkdir()
    state = {"place": str(place), "files": FILES}
    id = stack.bench.run(project=project, initial_state=state, wait=False).id
    until((place / "wrote").exists)
    asyncio.run(_pause(stack, id, strategy))
    (place / "gate").touch()
    until((place / "left").exists)
    paused = until(lambda: asyncio.run(_paused_at(stack, id)))
    began = time.time()
    stack.bench.resume(id, wait=False)
    until((place / "entered").exists)
    left, entered = (json.loads((place / name).read_text()) for name in ("left", "entered"))
    until(lambda: stack.bench.get_execution(id).status == "COMPLETED")
    return (paused - left) * 1000, (entered - began) * 1000


def until(true: Callable[[], Any]) -> Any:
    """The first true value.

    Raises:
        AssertionError: There was none in time.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not (value := true()):
        assert time.monotonic() < deadline, true
        time.sleep(0.01)
    return value


def p95(values: tuple[float, ...]) -> float:
    """The 95th percentile; of few values, nearly the largest."""
    return statistics.quantiles(values, n=20, method="inclusive")[-1] if values[1:] else values[0]


async def _pause(stack: common.Stack, id: str, strategy: PauseStrategy) -> None:
    async with Database(_url(stack), size=1) as db:
        await Store(db).control.pause(id, strategy=strategy, actor="benchmark")


async def _paused_at(stack: common.Stack, id: str) -> float | None:
    """When the pause was written, as seconds since the epoch."""
    async with Database(_url(stack), size=1) as db:
        told = await Store(db).events.read(Cursor.START, 10_000, execution_id=id)
    at = [event.at.timestamp() for event in told if event.type == "execution.paused"]
    return at[0] if at else None


def _url(stack: common.Stack) -> str:
    directory: Path = stack.data_dir / "postgres"
    return f"postgresql://postgres:@/postgres?host={directory}"
