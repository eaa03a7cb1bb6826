"""What a pause gives back, asked from Ray and from the operating system; and shutting down unharmed."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.stack import Stack, wait_until
from wtb_ray.db import Database
from wtb_ray.model import FileTrackingConfig, WorkspaceIsolationConfig
from wtb_ray.sdk import WorkflowProject, WTBTestBench
from wtb_ray.store import Store

ROOT = Path(__file__).parents[1] / "projects" / "parking"
BALLAST = 128 * 1024 * 1024


class Held:
    """An execution in a process of its own, at a gate."""

    def __init__(self, bench: WTBTestBench, stack: Stack, folder: Path, name: str):
        self.bench, self.stack, self.name = bench, stack, name
        self.log, self.gate = folder / f"{name}.log", folder / f"{name}.gate"
        state = {"gate": str(self.gate), "log": str(self.log), "name": name}
        self.id = bench.run(project="parking", initial_state=state, wait=False).id

    def ran(self) -> list[list[str]]:
        return [line.split(" ", 2) for line in self.log.read_text().splitlines()]

    def pause(self, strategy: str) -> dict[str, Any]:
        """Paused by this strategy; its report."""
        wait_until(self.log.exists)
        self.process = psutil.Process(int(self.ran()[0][1]))
        self.before = self.process.memory_info().rss

        async def ask() -> None:
            async with Database(self.stack.database) as db:
                await Store(db).control.pause(self.id, strategy=strategy, actor="test")

        asyncio.run(ask())
        self.gate.touch()
        paused = wait_until(lambda: self.row()["status"] == "PAUSED" and self.row())
        assert paused["strategy"] == strategy
        parking: dict[str, Any] = paused["parking"]
        return parking

    def row(self) -> dict[str, Any]:
        [row] = self.stack.rows(
            "SELECT status, strategy, parking::json AS parking FROM executions WHERE id = %s",
            (self.id,),
        )
        return row

    @property
    def directory(self) -> Path:
        return self.stack.data_dir / "ws" / self.id

    def goes_on(self) -> int:
        """Resumed, with its state and files; the process that it went on in."""

        async def ask() -> None:
            async with Database(self.stack.database) as db:
                await Store(db).control.resume(self.id, actor="test")

        asyncio.run(ask())
        wait_until(lambda: self.row()["status"] in ("COMPLETED", "FAILED"))
        assert self.row()["status"] == "COMPLETED"
        files = self.bench.get_execution(self.id).state["files"]
        assert files == {"output/text.txt": self.name, "late.txt": "late"}
        assert [line[0] for line in self.ran()] == ["write", "read"]
        return int(self.ran()[-1][1])


def actors(stack: Stack, name: str) -> list[str]:
    """The states of the actors of this name, as Ray has them."""
    found = httpx.get(
        f"{stack.dashboard}/api/v0/actors",
        params={"filter_keys": "name", "filter_predicates": "=", "filter_values": name},
        timeout=30,
        trust_env=False,
    ).json()["data"]["result"]["result"]
    return [actor["state"] for actor in found]


@pytest.mark.timeout(240)
def test_what_is_released_is_gone_for_ray_and_the_operating_system(
    bench: WTBTestBench, stack: Stack, tmp_path: Path
) -> None:
    bench.register_project(
        WorkflowProject(
            name="parking",
            graph_factory="holding:graph",
            root=ROOT,
            file_tracking=FileTrackingConfig(),
            workspace_isolation=WorkspaceIsolationConfig(isolation="process"),
        )
    )
    hot = Held(bench, stack, tmp_path, "hot")
    parking = hot.pause("hot")
    assert set(parking["kept"]) == {"workspace", "graph", "process"}
    assert hot.process.memory_info().rss > BALLAST
    assert hot.directory.exists()

    warm = Held(bench, stack, tmp_path, "warm")
    parking = warm.pause("warm")
    assert (set(parking["kept"]), parking["released"]) == ({"workspace", "process"}, ["graph"])
    assert warm.process.pid != hot.process.pid, "that one is kept for another"
    wait_until(lambda: warm.process.memory_info().rss < warm.before - 0.8 * BALLAST)
    assert warm.directory.exists()

    cold = Held(bench, stack, tmp_path, "cold")
    parking = cold.pause("cold")
    assert (parking["kept"], set(parking["released"])) == ([], {"workspace", "graph", "process"})
    assert not cold.directory.exists()
    wait_until(lambda: not cold.process.is_running())
    name = f"runner:{parking['runner']}"
    wait_until(lambda: set(actors(stack, name)) <= {"DEAD"})
    assert actors(stack, f"runner:{hot.row()['parking']['runner']}") == ["ALIVE"]

    assert hot.goes_on() == hot.process.pid
    assert warm.goes_on() == warm.process.pid
    assert cold.goes_on() != cold.process.pid
