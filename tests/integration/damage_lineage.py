"""Damage to executions, branches and LangGraph's rows."""

from tests.integration.damage import (
    GONE,
    OLD,
    Ids,
    cell_of,
    checkpoint_at,
    damage,
    drop_checkpoint,
    origin,
    waiting,
)
from tests.integration.integrity_bench import Damaged


@damage("head_missing")
async def the_head_of_a_fork(d: Damaged) -> Ids:
    asking = await d.execution(d.world.asking)
    version = await d.store.projects.by_version(asking.version)
    head = str(asking.head)
    fork = await d.store.branches.fork(asking.id, head, version=version, binding={}, actor="me")
    await drop_checkpoint(d, fork.thread_id, head)
    await d.sql("DELETE FROM checkpoint_blobs WHERE thread_id = %s", fork.thread_id)
    return {"execution_id": fork.id, "thread_id": fork.thread_id, "checkpoint_id": head}


@damage("head_missing", "manual")
async def a_head_that_nobody_shares(d: Damaged) -> Ids:
    asking = await d.execution(d.world.asking)
    await drop_checkpoint(d, asking.thread_id, str(asking.head))
    return {
        "execution_id": asking.id,
        "thread_id": asking.thread_id,
        "checkpoint_id": str(asking.head),
    }


@damage("parent_missing", "repaired", "step_without_checkpoint")
async def the_checkpoint_that_branches_began_with(d: Damaged) -> Ids:
    thread, child = f"{d.world.line}.0", f"{d.world.fork}.0"
    checkpoint = await origin(d, child)
    await drop_checkpoint(d, thread, checkpoint)
    return {"thread_id": child, "parent_thread": thread, "checkpoint_id": checkpoint}


@damage("branch_missing")
async def the_present_branch(d: Damaged) -> Ids:
    thread = f"{d.world.line}.1"
    await d.sql("DELETE FROM branches WHERE thread_id = %s", thread)
    return {"execution_id": d.world.line, "thread_id": thread}


@damage("branch_missing")
async def an_earlier_branch(d: Damaged) -> Ids:
    thread = f"{d.world.line}.0"
    await d.sql("DELETE FROM branches WHERE thread_id = %s", thread)
    return {"execution_id": d.world.line, "thread_id": thread}


@damage("branch_missing", "manual")
async def a_branch_of_which_the_log_knows_nothing(d: Damaged) -> Ids:
    fork = d.world.fork
    await d.sql("DELETE FROM branches WHERE execution_id = %s", fork)
    await d.sql("DELETE FROM events WHERE execution_id = %s", fork)
    return {"execution_id": fork, "thread_id": f"{fork}.0"}


@damage("step_without_checkpoint", "manual")
async def a_checkpoint_of_the_past(d: Damaged) -> Ids:
    thread = f"{d.world.line}.0"
    checkpoint = await checkpoint_at(d, thread, 2)
    await drop_checkpoint(d, thread, checkpoint)
    return {"thread_id": thread, "checkpoint_id": checkpoint}


@damage("checkpoint_without_step", "manual")
async def the_first_step(d: Damaged) -> Ids:
    thread = f"{d.world.line}.0"
    checkpoint = await checkpoint_at(d, thread, -1)
    await d.sql("DELETE FROM steps WHERE thread_id = %s AND checkpoint_id = %s", thread, checkpoint)
    return {"thread_id": thread, "checkpoint_id": checkpoint}


async def _drop_blob(d: Damaged, thread: str, checkpoint: str) -> Ids:
    version = await d.sql(
        "SELECT checkpoint -> 'channel_versions' ->> 'done' FROM checkpoints"
        " WHERE thread_id = %s AND checkpoint_id = %s",
        *(thread, checkpoint),
    )
    await d.sql(
        "DELETE FROM checkpoint_blobs WHERE thread_id = %s AND channel = 'done' AND version = %s",
        *(thread, version),
    )
    return {"thread_id": thread, "checkpoint_ns": "", "channel": "done", "version": version}


@damage("blobs_missing")
async def a_value_that_branches_share(d: Damaged) -> Ids:
    thread = f"{d.world.line}.1"
    return await _drop_blob(d, thread, await origin(d, thread))


@damage("blobs_missing", "manual")
async def a_value_that_nobody_shares(d: Damaged) -> Ids:
    thread = f"{d.world.fork}.0"
    return await _drop_blob(d, thread, await checkpoint_at(d, thread, 3))


async def _answer(d: Damaged, at: str) -> Ids:
    thread = f"{d.world.asking}.0"
    await d.sql(
        "INSERT INTO answers (execution_id, thread_id, checkpoint_id, interrupt_id, value, created_at)"
        " VALUES (%s, %s, 'nowhere', 'i', '1', %s)",
        *(d.world.asking, thread, at),
    )
    return {"thread_id": thread, "checkpoint_id": "nowhere", "interrupt_id": "i"}


@damage("answer_dangling")
async def an_old_answer_to_nothing(d: Damaged) -> Ids:
    return await _answer(d, OLD)


@damage("answer_dangling", "left")
async def a_new_answer_to_nothing(d: Damaged) -> Ids:
    return await _answer(d, "now")


@damage("point_dangling")
async def a_restore_point_of_nothing(d: Damaged) -> Ids:
    thread = f"{d.world.asking}.0"
    await d.sql(
        "INSERT INTO restore_points (thread_id, checkpoint_id, seq, task_ids, reason, created_at)"
        " VALUES (%s, 'nowhere', 0, '{}', 'pause', %s)",
        *(thread, OLD),
    )
    return {"thread_id": thread, "checkpoint_id": "nowhere", "seq": 0}


@damage("fork_source_missing", "manual")
async def the_source_of_a_fork(d: Damaged) -> Ids:
    await d.sql("UPDATE executions SET forked_from = %s WHERE id = %s", GONE, d.world.fork)
    return {"execution_id": d.world.fork, "forked_from": GONE}


@damage("case_missing", "manual", "batch_counts")
async def a_case(d: Damaged) -> Ids:
    await d.sql("DELETE FROM cases WHERE batch_id = %s AND ordinal = 0", d.world.batch)
    return {"batch_id": d.world.batch, "case_ordinal": 0}


@damage("version_missing")
async def the_newest_version(d: Damaged) -> Ids:
    await d.sql("UPDATE projects SET version = 'none' WHERE name = 'files'")
    return {"project": "files"}


@damage("open_cell_adrift")
async def the_execution_of_an_open_cell(d: Damaged) -> Ids:
    batch, cell, execution = await waiting(d)
    await d.sql("DELETE FROM branches WHERE execution_id = %s", execution)
    await d.sql("DELETE FROM executions WHERE id = %s", execution)
    return {"cell_id": cell, "batch_id": batch}


@damage("ended_cell_adrift", "manual")
async def the_execution_of_an_ended_cell(d: Damaged) -> Ids:
    batch, cell, _ = await cell_of(d)
    await d.sql("UPDATE cells SET execution_id = %s WHERE id = %s", GONE, cell)
    return {"cell_id": cell, "batch_id": batch}


async def _thread(d: Damaged, table: str, columns: str) -> Ids:
    await d.sql(
        f"INSERT INTO {table} SELECT %s, {columns} FROM {table} WHERE thread_id = %s",
        *(f"{GONE}.0", f"{d.world.line}.0"),
    )
    return {"thread_id": f"{GONE}.0"}


@damage("orphan_checkpoint")
async def a_thread_without_an_execution(d: Damaged) -> Ids:
    await _thread(d, "checkpoint_blobs", "checkpoint_ns, channel, version, type, blob")
    await _thread(
        d,
        "checkpoints",
        "checkpoint_ns, checkpoint_id, parent_checkpoint_id, type,"
        f""" jsonb_set(checkpoint, '{{ts}}', '"{OLD}"'), metadata""",
    )
    return {"thread_id": f"{GONE}.0"}


@damage("orphan_checkpoint", "left")
async def a_new_thread_without_an_execution(d: Damaged) -> Ids:
    columns = "checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata"
    return await _thread(d, "checkpoints", columns)


@damage("orphan_checkpoint")
async def values_without_a_checkpoint(d: Damaged) -> Ids:
    return await _thread(d, "checkpoint_blobs", "checkpoint_ns, channel, version, type, blob")


@damage("orphan_checkpoint")
async def writes_without_a_checkpoint(d: Damaged) -> Ids:
    await d.sql(
        "INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path,"
        " idx, channel, type, blob) VALUES (%s, '', 'c', 't', '', 0, 'x', 'null', '')",
        f"{GONE}.0",
    )
    return {"thread_id": f"{GONE}.0"}


@damage("orphan_commit")
async def steps_without_an_execution(d: Damaged) -> Ids:
    await d.sql(
        "INSERT INTO steps (thread_id, checkpoint_id, step, source, nodes, next_nodes, next_tasks,"
        " duration_ms, manifest, created_at)"
        " SELECT %s, checkpoint_id, step, source, nodes, next_nodes, next_tasks, duration_ms, manifest, %s"
        " FROM steps WHERE thread_id = %s",
        *(f"{GONE}.0", OLD, f"{d.world.line}.0"),
    )
    return {"thread_id": f"{GONE}.0"}


@damage("orphan_commit")
async def restore_points_without_an_execution(d: Damaged) -> Ids:
    await d.sql(
        "INSERT INTO restore_points (thread_id, checkpoint_id, seq, task_ids, reason, created_at)"
        " VALUES (%s, 'c', 0, '{}', 'pause', %s)",
        *(f"{GONE}.0", OLD),
    )
    return {"thread_id": f"{GONE}.0"}


@damage("orphan_restore")
async def a_restore_without_an_execution(d: Damaged) -> Ids:
    tree = await d.sql(
        "SELECT manifest FROM steps WHERE thread_id = %s LIMIT 1", f"{d.world.fork}.0"
    )
    id = await d.sql(
        "INSERT INTO restores (execution_id, epoch, before, reason, created_at)"
        " VALUES (%s, 1, %s, 'restart', %s) RETURNING id",
        *(GONE, tree, OLD),
    )
    return {"restore_id": id}


@damage("venv_missing")
async def the_directory_of_an_environment(d: Damaged) -> Ids:
    path = str(d.settings.venvs() / "v1" / "venv")
    await d.sql(
        "INSERT INTO venvs (host, venv, status, path) VALUES ('here', 'v1', 'READY', %s),"
        " ('elsewhere', 'v1', 'READY', %s)",
        *(path, path),
    )
    return {"host": "here", "venv": "v1", "path": path}
