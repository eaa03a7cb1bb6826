"""Random processes die at random moments while batches run and executions travel in time.

The variants of each batch share their beginnings, and part at every node. Same results, nothing lost,
nothing double, no history torn, and no step that is shared is there twice.
"""

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from tests.chaos.travels import Travels
from tests.cluster.test_faults import ROOT, SCORERS, cases, undisturbed
from tests.stack import Stack
from wtb_ray import errors
from wtb_ray.sdk import WorkflowProject, WTBTestBench
from wtb_ray.sdk.bench import Batch

SEED = int(os.environ.get("WTB_CHAOS_SEED", "20261123"))
CASES = 40
MATRIX: list[dict[str, str]] = [{}, {"third": "same"}, {"second": "same"}]
CELLS = CASES * len(MATRIX)
RUNS = CASES * (1 + 2 + 3)
"""What is there of node runs: all begin in one, second runs for two of the variants, third for three."""


def victims(stack: Stack) -> dict[str, list[int]]:
    """Process ids that may die, by kind."""
    runners = stack.rows("SELECT pid FROM leases WHERE kind = 'runner' AND status = 'READY'")
    return {
        "runner": [row["pid"] for row in runners],
        "scheduler": [p.pid for p in stack.processes("ray::BatchScheduler")],
        "lifecycle": [p.pid for p in stack.processes("ray::ActorLifecycle")],
        "audit": [p.pid for p in stack.processes("ray::AuditSink")],
        "controller": [p.pid for p in stack.processes("ServeReplica:wtb:ExecutionController")],
        "ingress": [p.pid for p in stack.processes("ServeReplica:wtb:Ingress")],
        "postgres": [stack.postmaster()],
    }


@pytest.mark.timeout(3600)
def test_random_kills_change_no_result(
    bench: WTBTestBench, stack: Stack, tmp_path: Path, kills: int
) -> None:
    chance = random.Random(SEED)
    project = WorkflowProject(name="faults", graph_factory="faulty:graph", root=ROOT)
    for node in ("second", "third"):
        project.register_variant(node, "same", params={"mark": node})
    bench.register_project(project)
    killed: Counter[str] = Counter()
    commands: Counter[str] = Counter()
    while killed.total() < kills:
        trace = tmp_path / f"trace-{killed.total()}"
        batch = _started(bench, trace)
        travels = Travels(bench, stack, chance, trace)
        for _ in range(3):
            travels.start()
        for _ in range(min(2, kills - killed.total())):
            for _ in range(chance.randint(3, 8)):
                time.sleep(chance.uniform(0.0, 0.25))  # the moment is the point
                travels.command()
            _kill(stack, chance, killed)
        for _ in range(3):
            travels.command()
        undisturbed(batch.wait(timeout=180), trace, CASES, len(MATRIX))
        assert batch.tree().reuse.node_runs == RUNS
        _exactly_once(stack, batch.id)
        travels.finish()
        travels.check()
        commands += travels.commands
    assert bench.verify_audit().intact
    print(f"seed {SEED}: killed {dict(killed)}, done {dict(commands)}")


def _kill(stack: Stack, chance: random.Random, killed: Counter[str]) -> None:
    time.sleep(chance.uniform(0.05, 1.5))  # the moment of death is the point
    found = victims(stack)
    kind = chance.choice(["runner", *found])
    if found[kind]:
        try:
            psutil.Process(chance.choice(found[kind])).send_signal(signal.SIGKILL)
            killed[kind] += 1
        except psutil.NoSuchProcess:
            return


def _started(bench: WTBTestBench, trace: Path) -> Batch:
    """A new batch; what the last kill took away may still be on its way back."""
    while True:
        try:
            return bench.run_batch_test(
                project="faults",
                variant_matrix=MATRIX,
                test_cases=cases(CASES, trace),
                scorers=SCORERS,
                wait=False,
            )
        except errors.Unavailable:
            time.sleep(0.5)


def _exactly_once(stack: Stack, batch_id: str) -> None:
    """Every cell has one score, every execution one end, and every history is one unbroken chain."""
    (row,) = stack.rows(
        "SELECT (SELECT count(*) FROM scores WHERE batch_id = %(id)s) AS scores,"
        " (SELECT count(*) FROM events WHERE batch_id = %(id)s AND type = 'execution.completed') AS ends,"
        " (SELECT count(*) FROM events WHERE batch_id = %(id)s AND type = 'cell.scored') AS scored,"
        " (SELECT count(*) FROM executions WHERE batch_id = %(id)s AND status = 'COMPLETED') AS done",
        {"id": batch_id},
    )
    assert row == {"scores": CELLS, "ends": CELLS, "scored": CELLS, "done": CELLS}
    torn = stack.rows(
        "SELECT e.id, array_agg(s.step ORDER BY s.step) AS steps, p.step AS parted FROM executions e"
        " JOIN steps s ON s.thread_id = e.thread_id JOIN branches b ON b.thread_id = e.thread_id"
        " LEFT JOIN steps p ON (p.thread_id, p.checkpoint_id) = (b.parent_thread, b.parent_checkpoint)"
        " WHERE e.batch_id = %(id)s GROUP BY e.id, p.step HAVING array_agg(s.step ORDER BY s.step)"
        " <> ARRAY(SELECT generate_series(coalesce(p.step + 1, -1), 3))",
        {"id": batch_id},
    )
    assert not torn
    orphans = stack.rows(
        "SELECT c.checkpoint_id FROM checkpoints c JOIN executions e ON e.thread_id = c.thread_id"
        " LEFT JOIN steps s ON (s.thread_id, s.checkpoint_id) = (c.thread_id, c.checkpoint_id)"
        " WHERE e.batch_id = %(id)s AND c.checkpoint_ns = '' AND s.checkpoint_id IS NULL"
        " AND NOT EXISTS (SELECT FROM branches b WHERE b.thread_id = c.thread_id"
        " AND b.parent_checkpoint = c.checkpoint_id)",
        {"id": batch_id},
    )
    assert not orphans
