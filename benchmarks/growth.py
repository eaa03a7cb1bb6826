"""Whether a runner grows: the memory of one runner process over thousands of executions."""

import asyncio
import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from benchmarks import common
from benchmarks.contenders import SPEC, Claims
from wtb_ray.actors.runner import VariantRunner
from wtb_ray.db import Database
from wtb_ray.model import new_id
from wtb_ray.settings import Settings
from wtb_ray.store import Store

EVERY: Final = 500
WARM: Final = 1000
"""Executions after which caches, pools and prepared statements are there."""
LIMIT_MIB: Final = 2.0
"""Growth for 1,000 executions that is taken for none."""


def run(*, executions: int = 5000) -> tuple[dict[str, Any], list[common.Target]]:
    """Measures; gives the result to be written and the targets."""
    points: list[tuple[int, float]] = []
    with common.stack(runners_per_pool=1) as stack:
        stack.register("five", "graphs:five")
        for done in range(EVERY, executions + 1, EVERY):
            stack.batch("five", EVERY)
            (runner,) = stack.processes("ray::VariantRunner")
            points.append((done, runner.memory_info().rss / common.MIB))
    common.table(("executions", "runner MiB"), [(n, f"{rss:.1f}") for n, rss in points])
    slope = 1000 * slope_of([point for point in points if point[0] >= WARM])
    target = common.Target("growth for 1,000 executions", slope, LIMIT_MIB, unit=" MiB")
    return {"points_mib": points, "mib_per_1000": slope}, [target]


def slope_of(points: list[tuple[int, float]]) -> float:
    """The least-squares slope."""
    x, y = zip(*points, strict=True)
    return float(np.polyfit(x, y, 1)[0])


def without_ray(url: str, data_dir: Path, marks: Sequence[int]) -> list[float]:
    """The memory of a runner in a process of its own, in MiB, after each of so many executions."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_main, args=(url, data_dir, marks, there), daemon=True
    )
    process.start()
    there.close()
    try:
        return [here.recv() for _ in marks]
    finally:
        process.join(30)


def _main(url: str, data_dir: Path, marks: Sequence[int], pipe: Connection) -> None:
    asyncio.run(_serve(url, Settings(data_dir=data_dir), marks, pipe))


async def _serve(url: str, settings: Settings, marks: Sequence[int], pipe: Connection) -> None:
    runner = VariantRunner(new_id("r"), SPEC, settings, url)
    await runner.prepare()
    await runner.start()
    async with Database(url) as db:
        store = Store(db)
        (lease,) = await store.leases.runners()
        claims = Claims(store, runner.id, lease.epoch)
        done = 0
        for mark in marks:
            await _feed(runner, claims, settings, mark - done)
            done = mark
            pipe.send(psutil.Process().memory_info().rss / common.MIB)
    await runner.drain()
    await runner.close()


async def _feed(runner: VariantRunner, claims: Claims, settings: Settings, n: int) -> None:
    version, free = await claims.make(n), settings.runner_slots
    while chunk := await claims.next(version, min(free, settings.chunk_size)):
        free = await runner.run(chunk)
    while free < settings.runner_slots:
        await asyncio.sleep(0.02)
        free = await runner.run([])
