"""Writes, reads, trims and collects in processes that die: `python -m tests.chaos.collection_worker`.

Reads jobs as lines of JSON and runs each in a fork of itself, which dies like in a power cut at one
of the instructions that it touches files or the database with. Answers with a line for each.
"""

import asyncio
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

from tests.trees import make, random_folder
from wtb_ray import errors
from wtb_ray.collection import Collector
from wtb_ray.db import Database
from wtb_ray.holds import Holds
from wtb_ray.manifests import EMPTY
from wtb_ray.model import FileTrackingConfig
from wtb_ray.objects import ObjectStore
from wtb_ray.restores import Restored
from wtb_ray.store import Store
from wtb_ray.store.holds import still_held
from wtb_ray.trees import TrackedTree

TTL_S = 2.0
CONFIG = FileTrackingConfig(ignore_patterns=())


class Job:
    """What one process does."""

    def __init__(self, given: dict[str, Any], store: Store, objects: ObjectStore) -> None:
        self.given = given
        self.store = store
        self.objects = objects
        self.chance = random.Random(given["seed"])
        self.holds = Holds(store.holds, f"{given['kind']}-{os.getpid()}", ttl_s=TTL_S)
        self.beside = Path(given["base"]) / given["execution"]

    async def run(self) -> None:
        await getattr(self, self.given["kind"])()

    async def write(self) -> None:
        """A runner's life: files change, are kept, and a row names them; time and again."""
        tree = await self._tree()
        for _ in range(self.chance.randint(1, 4)):
            make(self.beside / "files", random_folder(self.chance))
            await asyncio.sleep(self.chance.choice([0, 0, 0.05, 0.3]))
            async with self.holds.writing() as session:
                manifest = (await tree.snapshot()).manifest
                await asyncio.sleep(self.chance.choice([0, 0, 0.05, 0.4]))
                await self._name(manifest, session.id)
            await tree.save()

    async def restore(self) -> None:
        """A takeover: the files of some checkpoint are brought back, and what was there is recorded."""
        tree = await self._tree()
        async with self.store.db.connection() as conn:
            cursor = await conn.execute(
                "SELECT manifest FROM steps WHERE thread_id = %s AND manifest IS NOT NULL",
                (f"{self.given['execution']}.0",),
            )
            named = sorted(row["manifest"] for row in await cursor.fetchall())
        target = self.chance.choice([*named, EMPTY])
        async with self.holds.writing() as session:

            async def witness(restored: Restored) -> None:
                async with self.store.db.transaction() as conn:
                    await still_held(conn, session.id)
                    for before in filter(None, (restored.displaced, *restored.recovered)):
                        await conn.execute(
                            "INSERT INTO restores (execution_id, epoch, before, after, reason)"
                            " VALUES (%s, 1, %s, %s, 'restart')",
                            (self.given["execution"], before, target),
                        )

            await tree.restore(target, witness=witness)
            await tree.save()

    async def read(self) -> None:
        """A download: all of a tree, while others may trim its rows."""
        rows = await self.store.db.rows("SELECT manifest FROM steps WHERE manifest IS NOT NULL")
        if not rows:
            return
        manifest = self.chance.choice(sorted({row["manifest"] for row in rows}))
        async with self.holds.reading([manifest]):
            sql = "SELECT FROM steps WHERE manifest = %s"
            if await self.store.db.row(sql, (manifest,)) is None:
                return
            await asyncio.sleep(self.chance.choice([0, 0.2]))
            beside = Path(self.given["base"]) / "downloads" / str(os.getpid())
            beside.mkdir(parents=True)
            tree = TrackedTree(beside / "files", CONFIG, self.objects, beside=beside)
            await tree.restore(manifest)

    async def trim(self) -> None:
        """`max_snapshots`."""
        await self.store.executions.forget_files(self.given["execution"], self.chance.randint(1, 2))
        async with self.store.db.connection() as conn:
            await conn.execute(
                "DELETE FROM restores WHERE execution_id = %s AND random() < 0.5",
                (self.given["execution"],),
            )

    async def collect(self) -> None:
        collector = Collector(
            self.store, self.objects, actor="files", ttl_s=TTL_S, wait_s=30.0, settled_s=0.0
        )
        try:
            report = await collector.collect(0.0)
        except (errors.Conflict, errors.Fenced):
            return
        assert not report.damaged, report.damaged

    async def tend(self) -> None:
        """The tracker that is always there: it goes on with what was cut off."""
        while True:
            try:
                await Collector(
                    self.store, self.objects, actor="files", ttl_s=TTL_S, settled_s=0.0
                ).collect(0.0)
                return
            except (errors.Conflict, errors.Fenced):
                await asyncio.sleep(0.2)

    async def _tree(self) -> TrackedTree:
        (self.beside / "files").mkdir(parents=True, exist_ok=True)
        tree = TrackedTree(self.beside / "files", CONFIG, self.objects, beside=self.beside)
        await tree.load()
        return tree

    async def _name(self, manifest: str, lease: str) -> None:
        async with self.store.db.transaction() as conn:
            await still_held(conn, lease)
            await conn.execute(
                "INSERT INTO steps (thread_id, checkpoint_id, step, source, nodes, next_nodes,"
                " next_tasks, duration_ms, manifest) SELECT %(thread)s, gen_random_uuid()::text,"
                " coalesce(max(step) + 1, 0), 'loop', '[]', '{}', '[]', 1, %(manifest)s"
                " FROM steps WHERE thread_id = %(thread)s",
                {"thread": f"{self.given['execution']}.0", "manifest": manifest},
            )


def die_at(count: int) -> None:
    """Ends the process before one of the things that it does to files and connections."""
    seen = 0

    def hook(event: str, _: Any) -> None:
        nonlocal seen
        if event == "open" or event.startswith(("os.", "shutil.")):
            seen += 1
            if seen == count:
                os.kill(os.getpid(), signal.SIGKILL)

    if count:
        sys.addaudithook(hook)


async def work(given: dict[str, Any]) -> None:
    async with (
        Database(given["url"], size=3, name=given["kind"]) as db,
        ObjectStore(f"file://{given['base']}/objects") as objects,
    ):
        job = Job(given, Store(db), objects)
        if given.get("after_s"):
            loop = asyncio.get_running_loop()
            loop.call_later(given["after_s"], os.kill, os.getpid(), signal.SIGKILL)
        try:
            await job.run()
        except errors.Unavailable as e:
            if e.details.get("reason") != "lease":
                raise
        finally:
            await job.holds.close()


def start(given: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        die_at(given.get("dies_at", 0))
        asyncio.run(work(given))
    except BaseException as e:  # noqa: BLE001 - told to the test by its end
        print(f"{given['kind']} failed: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def main() -> None:
    """Each line starts some jobs at the same time; the answer says which of them died or failed."""
    for line in sys.stdin:
        pids = {start(given): given for given in json.loads(line)}
        ends = []
        for pid, given in pids.items():
            _, status = os.waitpid(pid, 0)
            died = os.WIFSIGNALED(status)
            ends.append({"kind": given["kind"], "died": died, "failed": not died and bool(status)})
        print(json.dumps(ends), flush=True)


if __name__ == "__main__":
    main()
