"""Damage by name: how it is planted by SQL or on disk, what is found then, and what a repair does."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from tests.integration.integrity_bench import Damaged, open_batch

Ids = dict[str, Any]
Plant = Callable[[Damaged], Awaitable[Ids]]

OLD: Final = "2020-01-01T00:00:00Z"
GONE: Final = "e" + "0" * 24


@dataclass(frozen=True)
class Damage:
    """One kind of damage."""

    name: str
    problem: str
    plant: Plant
    """Does it, and gives the ids of the finding."""
    outcome: str = "repaired"
    also: frozenset[str] = frozenset()
    """What else is found."""
    deep: bool = False
    ttl_s: float | None = None


TABLE: Final[list[Damage]] = []


def damage(
    problem: str, outcome: str = "repaired", *also: str, **more: Any
) -> Callable[[Plant], Plant]:
    """Adds a way to do damage to the table."""

    def add(plant: Plant) -> Plant:
        name = plant.__name__
        TABLE.append(Damage(name, problem, plant, outcome, frozenset(also), **more))
        return plant

    return add


async def checkpoint_at(d: Damaged, thread: str, step: int) -> str:
    found = await d.sql(
        "SELECT checkpoint_id FROM steps WHERE thread_id = %s AND step = %s", thread, step
    )
    return str(found)


async def origin(d: Damaged, thread: str) -> str:
    sql = "SELECT parent_checkpoint FROM branches WHERE thread_id = %s"
    return str(await d.sql(sql, thread))


async def drop_checkpoint(d: Damaged, thread: str, checkpoint: str) -> None:
    await d.sql(
        "DELETE FROM checkpoints WHERE thread_id = %s AND checkpoint_id = %s", thread, checkpoint
    )


async def waiting(d: Damaged) -> tuple[str, int, str]:
    """Batch, cell and execution of a batch that is open: the execution waits."""
    batch = await open_batch(d)
    row = await d.row(
        "SELECT id, execution_id FROM cells WHERE batch_id = %s AND execution_id IS NOT NULL", batch
    )
    return batch, row["id"], row["execution_id"]


async def cell_of(d: Damaged) -> tuple[str, int, str]:
    """Batch, cell and execution of one that is DONE."""
    row = await d.row(
        "SELECT id, execution_id FROM cells WHERE batch_id = %s ORDER BY id LIMIT 1", d.world.batch
    )
    return d.world.batch, row["id"], row["execution_id"]


async def lease(d: Damaged, id: str, status: str, late_s: float) -> None:
    await d.sql(
        "INSERT INTO leases (id, kind, pool, holder, status, until)"
        " VALUES (%s, 'runner', 'v', %s, %s, now() - make_interval(secs => %s))",
        *(id, id, status, late_s),
    )
