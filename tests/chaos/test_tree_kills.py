"""Processes die in the middle of snapshots and restores: no tree is torn, no blob lost."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.tree_worker import CONFIG
from tests.trees import Seen, look, make, random_folder, stored
from wtb_ray.manifests import EMPTY
from wtb_ray.objects import ObjectStore
from wtb_ray.trees import TrackedTree

SEED = int(os.environ.get("WTB_CHAOS_SEED", "20261123"))
UNTRACKED = b"nobody may touch this"


@pytest.fixture
def points(request: pytest.FixtureRequest) -> int:
    """At how many instructions a process dies."""
    return 500 if request.config.getoption("--chaos") == "long" else 15


class Worker:
    """Runs jobs in processes that may die."""

    def __init__(self, base: Path, process: "subprocess.Popen[str]"):
        self._base = base
        self._process = process

    def __call__(self, restore: bool, manifest: str | None, dies_at: int = 0) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        job = {"base": str(self._base), "restore": restore, "manifest": manifest}
        self._process.stdin.write(json.dumps({**job, "dies_at": dies_at}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    command = [sys.executable, "-m", "tests.chaos.tree_worker"]
    process = subprocess.Popen(
        command,
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield Worker(tmp_path, process)


class Campaign:
    """One directory with its history; everything is looked at without the code under test."""

    def __init__(self, base: Path, objects: ObjectStore, chance: random.Random):
        self.base = base
        self.root = base / "files"
        self.objects = objects
        self.chance = chance
        self.recorded: dict[str, Seen] = {EMPTY: {}}
        self.root.mkdir()
        (base / "told").touch()

    async def tree(self) -> TrackedTree:
        tree = TrackedTree(self.root, CONFIG, self.objects, beside=self.base)
        await tree.load()
        return tree

    def edit(self) -> Seen:
        """Somebody works in the directory."""
        make(self.root, random_folder(self.chance))
        (self.root / "untracked.tmp").write_bytes(UNTRACKED)
        return self.look()

    def look(self) -> Seen:
        return {path: node for path, node in look(self.root).items() if path != "untracked.tmp"}

    async def keep(self) -> str:
        """A snapshot by a process that lives."""
        manifest = (await (await self.tree()).snapshot()).manifest
        self.recorded[manifest] = self.look()
        assert await stored(self.objects, manifest) == self.look(), "a blob is lost"
        return manifest

    async def after_snapshot(self, before: Seen) -> None:
        assert self.look() == before
        await self.keep()

    async def after_restore(self, before: Seen) -> None:
        """The next restore gives exactly its target, and what was there before is to be had."""
        target = self.chance.choice(list(self.recorded))
        restored = await (await self.tree()).restore(target)
        assert self.look() == self.recorded[target], "a tree is torn"
        assert (self.root / "untracked.tmp").read_bytes() == UNTRACKED
        told = (self.base / "told").read_text().split()
        displaced = {
            *filter(None, [restored.displaced]),
            *restored.recovered,
            *told,
            *self.recorded,
        }
        (self.base / "told").write_text("")
        for manifest in displaced - self.recorded.keys():
            self.recorded[manifest] = await stored(self.objects, manifest)
        assert before in [self.recorded[manifest] for manifest in displaced], "a file is lost"
        left = {path.name for path in self.base.iterdir()}
        assert left <= {"files", "objects", "told", "stats"} | {
            name for name in left if name.startswith(("stats.", "intent."))
        }


@pytest.mark.timeout(3600)
async def test_a_process_that_dies_tears_no_tree_and_loses_no_blob(
    tmp_path: Path, worker: Worker, points: int
) -> None:
    chance = random.Random(SEED)
    deaths: Counter[str] = Counter()
    async with ObjectStore(f"file://{tmp_path}/objects") as objects:
        campaign = Campaign(tmp_path, objects, chance)
        while deaths.total() < points:
            campaign.edit()
            await campaign.keep()
            before = campaign.edit()
            restore = chance.random() < 0.6
            for _ in range(chance.choice([1, 1, 2]) if restore else 1):
                target = chance.choice(list(campaign.recorded))
                dies_at = int(chance.uniform(1, 16) ** 2)
                if worker(restore, target, dies_at)["died"]:
                    deaths["restore" if restore else "snapshot"] += 1
            await (campaign.after_restore if restore else campaign.after_snapshot)(before)
            if len(campaign.recorded) > 20:
                await check(objects, campaign)
        await check(objects, campaign)
    print(f"seed {SEED}: died in {dict(deaths)}")


async def check(objects: ObjectStore, campaign: Campaign) -> None:
    """Every tree that was ever recorded is still there, then most of them are forgotten."""
    for manifest, seen in campaign.recorded.items():
        if manifest != EMPTY:
            assert await stored(objects, manifest) == seen, "a blob is lost"
    kept = campaign.chance.sample(list(campaign.recorded), 5) if len(campaign.recorded) > 5 else []
    campaign.recorded = {m: campaign.recorded[m] for m in {*kept, EMPTY}}
