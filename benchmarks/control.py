"""What the commands cost on an execution of fifty steps, on a stack as `wtb up` starts it.

Its state is a growing list of texts, as a chat's is. Rollback and fork are what a user waits for,
over HTTP. A pause counts from when it is asked for to the execution at rest, so it contains the rest
of the node that runs (20 ms at most); a resume counts from the command to the end of the first
super-step, its node of 20 ms included. Both are read from the event log.
"""

import random
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

from benchmarks import common
from wtb_ray.sdk import WorkflowProject
from wtb_ray.states import ExecutionStatus as E

STEPS: Final = 50
CHILDREN: Final = 100
LIMITS_MS: Final = {"pause": 250.0, "resume": 1000.0, "rollback": 100.0, "fork": 100.0}
"""Most milliseconds at the median."""
CHILDREN_LIMIT_S: Final = 5.0
PATIENCE_S: Final = 60.0

Times = dict[str, list[float]]


def run(*, repeats: int = 30) -> tuple[dict[str, Any], list[common.Target]]:
    """Measures; gives the result to be written and the targets."""
    with common.stack(lease_ttl_s=15, runners_per_pool=1) as stack:
        stack.bench.register_project(
            WorkflowProject(name="fifty", graph_factory="graphs:fifty", root=common.HERE)
        )
        done = stack.bench.run("fifty", {"texts": []}, timeout=PATIENCE_S)
        assert done.status == E.COMPLETED, done.error
        times = {"pause": [], "resume": [], **_travels(stack, done.id, repeats)}
        for _ in range(repeats):
            _rests(stack, times)
        children_s = _children(stack, done.id)
    _show(times, children_s)
    targets = [
        common.Target(f"{name}, median", statistics.median(times[name]), limit, unit=" ms")
        for name, limit in LIMITS_MS.items()
    ]
    what = f"{CHILDREN} children of one checkpoint"
    targets.append(common.Target(what, children_s, CHILDREN_LIMIT_S, unit=" s"))
    return {"steps": STEPS, "ms": times, "children_s": children_s}, targets


def _travels(stack: common.Stack, id: str, repeats: int) -> Times:
    """Back to random steps, and forks of them."""
    chance, times = random.Random(STEPS), Times(rollback=[], fork=[])
    places = [c.id for c in stack.bench.get_checkpoints(id) if c.step > 0]
    assert len(places) == STEPS
    for _ in range(repeats):
        place = chance.choice(places)
        times["rollback"].append(_took(lambda: stack.bench.rollback(id, place)))  # noqa: B023
        times["fork"].append(_took(lambda: stack.bench.fork(id, place)))  # noqa: B023
    return times


def _rests(stack: common.Stack, times: Times) -> None:
    """One execution that is paused in the middle and sent on."""
    bench = stack.bench
    id = bench.run("fifty", {"texts": []}, wait=False).id
    while (bench.get_execution(id).info.head_step or 0) < 2:
        time.sleep(0.005)
    assert bench.pause(id, timeout=PATIENCE_S).status == E.PAUSED
    bench.resume(id, timeout=PATIENCE_S)
    events = list(bench.events(execution=id, follow=False))
    for name, began, ended in (
        ("pause", "execution.pause_requested", "execution.paused"),
        ("resume", "execution.resumed", "step.completed"),
    ):
        start = next(e for e in events if e.type == began)
        end = next(e for e in events if e.type == ended and e.at > start.at)
        times[name].append((end.at - start.at).total_seconds() * 1000)


def _children(stack: common.Stack, id: str) -> float:
    """Seconds until a hundred children of one checkpoint are there."""
    places = stack.bench.get_checkpoints(id)
    item = {"execution_id": id, "checkpoint_id": places[0].id, "count": CHILDREN}
    began = time.monotonic()
    (outcome,) = stack.bench.fork_many([item])
    took = time.monotonic() - began
    assert outcome.ok, outcome.error
    assert len({child.id for child in outcome.executions}) == CHILDREN
    return took


def _took(do: Callable[[], object]) -> float:
    began = time.monotonic()
    do()
    return (time.monotonic() - began) * 1000


def _show(times: Times, children_s: float) -> None:
    rows = []
    for name, values in times.items():
        p95 = statistics.quantiles(values, n=20, method="inclusive")[-1]
        rows.append((name, f"{statistics.median(values):.0f}", f"{p95:.0f}", f"{max(values):.0f}"))
    common.table((f"ms, {STEPS} steps", "p50", "p95", "max"), rows)
    common.table(("", "seconds"), [(f"{CHILDREN} children", f"{children_s:.2f}")])
