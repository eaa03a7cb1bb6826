"""Damage to executions, cells and batches, to leases and processes."""

import dataclasses
import os
import socket
import subprocess
import sys
import time

from tests.integration.damage import (
    OLD,
    Ids,
    cell_of,
    checkpoint_at,
    damage,
    lease,
    origin,
    waiting,
)
from tests.integration.integrity_bench import Damaged
from wtb_ray import flocks, locks, venvs


@damage("lineage_cycle")
async def a_branch_that_descends_from_its_child(d: Damaged) -> Ids:
    first, second = f"{d.world.line}.0", f"{d.world.line}.1"
    await d.sql(
        "UPDATE branches SET parent_thread = %s, parent_checkpoint = %s WHERE thread_id = %s",
        *(second, await origin(d, second), first),
    )
    return {"thread_id": first}


@damage("head_stale", "repaired", "completed_unfinished")
async def a_head_that_was_set_back(d: Damaged) -> Ids:
    checkpoint = await checkpoint_at(d, f"{d.world.fork}.0", 2)
    await d.sql(
        "UPDATE executions SET head = %s, head_step = 2 WHERE id = %s", checkpoint, d.world.fork
    )
    return {"execution_id": d.world.fork}


@damage("head_stale")
async def the_number_of_a_head(d: Damaged) -> Ids:
    await d.sql("UPDATE executions SET head_step = 7 WHERE id = %s", d.world.fork)
    return {"execution_id": d.world.fork}


@damage("completed_unfinished")
async def an_execution_that_was_made_to_be_complete(d: Damaged) -> Ids:
    await d.sql(
        "UPDATE executions SET status = 'COMPLETED', ended_at = now() WHERE id = %s", d.world.asking
    )
    return {"execution_id": d.world.asking}


@damage("completed_unfinished", "repaired", "cell_mismatch")
async def a_cell_s_execution_that_was_made_to_be_complete(d: Damaged) -> Ids:
    _, _, execution = await waiting(d)
    await d.sql("UPDATE executions SET status = 'COMPLETED' WHERE id = %s", execution)
    return {"execution_id": execution}


@damage("owner_mismatch")
async def an_owner_of_what_does_not_run(d: Damaged) -> Ids:
    await d.sql("ALTER TABLE executions DROP CONSTRAINT executions_check")
    await d.sql("UPDATE executions SET owner = 'r9' WHERE id = %s", d.world.fork)
    return {"execution_id": d.world.fork}


@damage("owner_mismatch")
async def what_runs_without_an_owner(d: Damaged) -> Ids:
    _, _, execution = await waiting(d)
    await d.sql("ALTER TABLE executions DROP CONSTRAINT executions_check")
    await d.sql("UPDATE executions SET status = 'RUNNING' WHERE id = %s", execution)
    return {"execution_id": execution}


@damage("step_holes", "manual", "checkpoint_without_step")
async def a_step_in_the_middle(d: Damaged) -> Ids:
    thread = f"{d.world.line}.0"
    await d.sql("DELETE FROM steps WHERE thread_id = %s AND step = 2", thread)
    return {"thread_id": thread, "step": 3}


async def _ended(d: Damaged, status: str) -> Ids:
    batch, cell, execution = await waiting(d)
    await d.sql(
        "UPDATE executions SET status = %s, ended_at = now() WHERE id = %s", status, execution
    )
    return {"cell_id": cell, "batch_id": batch}


@damage("cell_mismatch")
async def a_cell_whose_execution_was_cancelled(d: Damaged) -> Ids:
    return await _ended(d, "CANCELLED")


@damage("cell_mismatch")
async def a_cell_whose_execution_has_failed(d: Damaged) -> Ids:
    return await _ended(d, "FAILED")


async def _reopened(d: Damaged) -> tuple[str, int, str]:
    """A DONE cell that runs again, in a batch that runs again, in no part."""
    batch, cell, execution = await cell_of(d)
    await d.sql("UPDATE batches SET status = 'RUNNING', ended_at = NULL WHERE id = %s", batch)
    await d.sql("UPDATE cells SET status = 'RUNNING', ended_at = NULL WHERE id = %s", cell)
    await d.sql("DELETE FROM result_parts")
    return batch, cell, execution


@damage("cell_mismatch")
async def a_cell_that_has_its_scores(d: Damaged) -> Ids:
    batch, cell, _ = await _reopened(d)
    return {"cell_id": cell, "batch_id": batch}


@damage("cell_mismatch")
async def a_cell_that_lacks_its_scores(d: Damaged) -> Ids:
    batch, cell, _ = await _reopened(d)
    await d.sql("DELETE FROM scores WHERE cell_id = %s", cell)
    return {"cell_id": cell, "batch_id": batch}


@damage("cell_mismatch", "repaired", "scores_missing")
async def a_cell_that_ended_before_its_execution(d: Damaged) -> Ids:
    batch, cell, _ = await waiting(d)
    await d.sql("UPDATE cells SET status = 'DONE', ended_at = now() WHERE id = %s", cell)
    return {"cell_id": cell, "batch_id": batch}


@damage("cell_mismatch", "manual")
async def a_cell_that_ended_otherwise(d: Damaged) -> Ids:
    batch, cell, _ = await cell_of(d)
    await d.sql("UPDATE cells SET status = 'FAILED' WHERE id = %s", cell)
    return {"cell_id": cell, "batch_id": batch}


@damage("scores_missing", "manual")
async def the_score_of_a_cell(d: Damaged) -> Ids:
    batch, cell, _ = await cell_of(d)
    await d.sql("DELETE FROM scores WHERE cell_id = %s", cell)
    return {"cell_id": cell, "batch_id": batch}


@damage("scores_foreign", "manual")
async def a_score_of_somebody_else(d: Damaged) -> Ids:
    batch, cell, _ = await cell_of(d)
    await d.sql(
        "INSERT INTO scores (batch_id, cell_id, scorer, scorer_digest, metric, value)"
        " VALUES (%s, %s, 'mine', 'd', 'm', 1)",
        *(batch, cell),
    )
    return {"cell_id": cell, "batch_id": batch}


@damage("batch_counts")
async def the_count_of_a_batch(d: Damaged) -> Ids:
    await d.sql("UPDATE batches SET cells = 99 WHERE id = %s", d.world.batch)
    return {"batch_id": d.world.batch}


@damage("batch_ended_early", "repaired", "pending_in_ended_batch")
async def a_batch_that_was_made_to_be_complete(d: Damaged) -> Ids:
    batch, _, _ = await waiting(d)
    await d.sql("UPDATE batches SET status = 'COMPLETED', ended_at = now() WHERE id = %s", batch)
    return {"batch_id": batch}


@damage("cells_left_waiting", "repaired", "pending_in_ended_batch")
async def a_batch_that_was_made_to_fail(d: Damaged) -> Ids:
    batch, _, _ = await waiting(d)
    await d.sql("UPDATE batches SET status = 'FAILED', ended_at = now() WHERE id = %s", batch)
    return {"batch_id": batch}


@damage("part_outdated")
async def an_open_cell_in_a_part(d: Damaged) -> Ids:
    batch, cell, execution = await cell_of(d)
    await d.sql("UPDATE batches SET status = 'RUNNING', ended_at = NULL WHERE id = %s", batch)
    await d.sql("UPDATE cells SET status = 'RUNNING', ended_at = NULL WHERE id = %s", cell)
    await d.sql("UPDATE executions SET status = 'PENDING' WHERE id = %s", execution)
    return {"batch_id": batch}


@damage("running_without_lease")
async def what_runs_in_a_dead_process(d: Damaged) -> Ids:
    _, _, execution = await waiting(d)
    await lease(d, "rdead", "DEAD", 3600)
    await d.sql(
        "UPDATE executions SET status = 'RUNNING', owner = 'rdead', seen = %s WHERE id = %s",
        *(OLD, execution),
    )
    return {"execution_id": execution}


@damage("lease_overdue")
async def a_lease_that_nobody_renews(d: Damaged) -> Ids:
    _, _, execution = await waiting(d)
    await lease(d, "rlate", "READY", 3600)
    d.processes.alive.append("rlate")
    await d.sql(
        "UPDATE executions SET status = 'RUNNING', owner = 'rlate', seen = now() WHERE id = %s",
        execution,
    )
    return {"runner": "rlate"}


@damage("drain_overdue")
async def a_runner_that_never_drained(d: Damaged) -> Ids:
    await lease(d, "rslow", "DRAINING", 3600)
    return {"runner": "rslow"}


@damage("lease_without_actor", ttl_s=2.0)
async def a_lease_whose_actor_is_gone(d: Damaged) -> Ids:
    await lease(d, "rgone", "READY", 4.0)
    return {"runner": "rgone"}


@damage("actor_without_lease")
async def an_actor_without_a_lease(d: Damaged) -> Ids:
    runner = f"r{(time.time_ns() // 1_000_000) - 3_600_000:012x}{'0' * 12}"
    d.processes.alive += [runner, f"r{time.time_ns() // 1_000_000:012x}{'0' * 12}"]
    return {"runner": runner}


@damage("singleton_overdue", "manual")
async def a_scheduler_that_is_gone(d: Damaged) -> Ids:
    await d.sql("UPDATE leases SET until = now() - interval '1 hour' WHERE id = 'scheduler'")
    return {"singleton": "scheduler"}


@damage("pending_unserved", "manual")
async def what_waits_without_a_runner(d: Damaged) -> Ids:
    _, _, execution = await waiting(d)
    await d.sql("UPDATE executions SET not_before = %s WHERE id = %s", OLD, execution)
    await d.sql("UPDATE leases SET created_at = %s, busy_at = %s", OLD, OLD)
    return {"execution_id": execution}


@damage("pending_in_ended_batch")
async def what_waits_in_a_cancelled_batch(d: Damaged) -> Ids:
    batch, _, execution = await waiting(d)
    await d.sql(
        "UPDATE cells SET status = 'CANCELLED' WHERE batch_id = %s AND status = 'PENDING'", batch
    )
    await d.sql("UPDATE batches SET status = 'CANCELLED', ended_at = now() WHERE id = %s", batch)
    return {"execution_id": execution}


@damage("scoring_stuck", "manual")
async def a_cell_that_is_scored_for_ever(d: Damaged) -> Ids:
    batch, cell, execution = await waiting(d)
    await lease(d, "rlive", "READY", -3600)
    await d.sql(
        "UPDATE executions SET status = 'RUNNING', owner = 'rlive', seen = %s WHERE id = %s",
        *(OLD, execution),
    )
    await d.sql("UPDATE cells SET status = 'SCORING' WHERE id = %s", cell)
    return {"cell_id": cell, "batch_id": batch}


@damage("batch_not_closed")
async def a_batch_that_nobody_closed(d: Damaged) -> Ids:
    await d.sql(
        "UPDATE batches SET status = 'RUNNING', ended_at = NULL WHERE id = %s", d.world.batch
    )
    await d.sql("UPDATE cells SET ended_at = %s WHERE batch_id = %s", OLD, d.world.batch)
    return {"batch_id": d.world.batch}


@damage("operation_lost")
async def an_operation_whose_carrier_is_gone(d: Damaged) -> Ids:
    await d.sql(
        "INSERT INTO operations (id, kind, execution_id, created_at) VALUES ('o1', 'fork', %s, %s)",
        *(d.world.line, OLD),
    )
    return {"operation_id": "o1"}


@damage("key_unfinished")
async def a_request_that_never_ended(d: Damaged) -> Ids:
    await d.sql("INSERT INTO idempotency (key, request, created_at) VALUES ('k1', 'r', %s)", OLD)
    return {"idempotency_key": "k1"}


@damage("lock_stale")
async def a_workspace_of_a_dead_process(d: Damaged) -> Ids:
    process = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    home = d.settings.workspaces() / d.world.asking / "3"
    home.mkdir(parents=True)
    owner = dataclasses.replace(locks.Owner.here("r1"), pid=int(process.stdout), started="1")
    locks.write(home, owner)
    os.utime(home / locks.LOCK, (1, 1))
    return {"host": socket.gethostname(), "workspace": f"{d.world.asking}/3"}


@damage("venv_abandoned")
async def an_environment_that_nobody_builds(d: Damaged) -> Ids:
    held = flocks.enter(venvs.lock_of(d.settings.venvs(), "v2"))
    assert held is not None
    d.held.append(held)
    await d.sql(
        "INSERT INTO venvs (host, venv, status) VALUES ('here', 'v1', 'BUILDING'),"
        " ('here', 'v2', 'BUILDING')"
    )
    return {"host": "here", "venv": "v1"}
