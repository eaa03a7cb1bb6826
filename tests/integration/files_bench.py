"""Executions with file trees, without running anything: rows as runners write them, real manifests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.integration.store_bench import StoreBench
from wtb_ray import manifests
from wtb_ray.manifests import EMPTY, Entry
from wtb_ray.model import Execution, thread_id
from wtb_ray.objects import ObjectStore


@dataclass(frozen=True)
class Restored:
    manifest: str = "new"
    restored: int = 2
    removed: int = 1
    displaced: str | None = "old"
    recovered: tuple[str, ...] = ()


@dataclass(frozen=True)
class Link:
    target: str


async def tree(objects: ObjectStore, files: Mapping[str, bytes | Link | None]) -> str:
    """The manifest of these files and links; None is an empty directory."""
    made: dict[str, Entry | None] = {}
    for path, content in files.items():
        if content is None:
            made[path] = Entry("", "dir", await objects.put(b"[]"), 0, 0o755)
        elif isinstance(content, Link):
            made[path] = Entry("", "link", content.target, 0, 0o777)
        else:
            made[path] = Entry("", "file", await objects.put(content), len(content), 0o644)
    return await manifests.replaced(objects, EMPTY, made)


async def stepped(bench: StoreBench, manifests: Sequence[str | None]) -> Execution:
    """A paused execution with checkpoints c-1, c0, c1, ..., each with this file tree."""
    made = await bench.execution()
    for number, manifest in enumerate(manifests, -1):
        await step(bench, made.thread_id, number, manifest)
    await head(bench, made.id, made.thread_id, f"c{len(manifests) - 2}")
    await bench.put(made.id, "PAUSED")
    return made


async def step(
    bench: StoreBench, thread: str, number: int, manifest: str | None, name: str | None = None
) -> None:
    async with bench.db.connection() as conn:
        await conn.execute(
            "INSERT INTO steps (thread_id, checkpoint_id, step, source, nodes, next_nodes,"
            " next_tasks, duration_ms, manifest) VALUES (%s, %s, %s, 'loop', '[]', '{}', '[]', 1, %s)",
            (thread, name or f"c{number}", number, manifest),
        )
        await conn.execute(
            "INSERT INTO checkpoints (thread_id, checkpoint_id, checkpoint, metadata)"
            """ VALUES (%s, %s, '{"channel_values": {}, "channel_versions": {}}', '{}')""",
            (thread, name or f"c{number}"),
        )


async def head(bench: StoreBench, id: str, thread: str, checkpoint: str) -> None:
    async with bench.db.connection() as conn:
        await conn.execute(
            "UPDATE executions SET thread_id = %s, head = %s WHERE id = %s",
            (thread, checkpoint, id),
        )


async def point(
    bench: StoreBench, thread: str, checkpoint: str, seq: int, manifest: str | None
) -> None:
    async with bench.db.connection() as conn:
        await conn.execute(
            "INSERT INTO restore_points (thread_id, checkpoint_id, seq, task_ids, inner_ids,"
            " manifest, reason) VALUES (%s, %s, %s, '{t1,t2}', '{i1}', %s, 'interrupt')",
            (thread, checkpoint, seq, manifest),
        )


async def branch(bench: StoreBench, made: Execution, number: int, origin: str) -> str:
    """A branch that goes on from a checkpoint of the first one, and is the current one."""
    thread = thread_id(made.id, number)
    async with bench.db.connection() as conn:
        await conn.execute(
            "INSERT INTO branches (thread_id, execution_id, number, parent_thread,"
            " parent_checkpoint, reason) VALUES (%s, %s, %s, %s, %s, 'rollback')",
            (thread, made.id, number, made.thread_id, origin),
        )
    await head(bench, made.id, thread, origin)
    return thread
