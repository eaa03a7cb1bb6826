"""The scheduler when runners do not start: what passes is waited for, what does not is told."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.test_scheduling import SPEC, Bench, LocalRunners, cases
from wtb_ray import errors
from wtb_ray.actors import scheduler as module
from wtb_ray.actors.scheduler import BatchScheduler
from wtb_ray.db import Database
from wtb_ray.model import ProjectSpec
from wtb_ray.settings import Settings
from wtb_ray.store import Store


class Failing(LocalRunners):
    """Runners of which the first do not start, for these reasons."""

    reasons: list[Exception]
    tried = 0

    async def spawn(self, spec: ProjectSpec, *, solo: bool = False) -> str:
        self.tried += 1
        if self.reasons:
            raise self.reasons.pop()
        return await super().spawn(spec, solo=solo)


@pytest_asyncio.fixture
async def bench(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Bench, Failing, BatchScheduler]]:
    monkeypatch.setattr(module, "SPAWN_BACKOFF_S", 0.01)
    settings = Settings(
        data_dir=tmp_path, runner_slots=4, runners_per_pool=4, chunk_size=4, lease_ttl_s=5.0
    )
    runners = Failing(settings, url)
    runners.reasons = []
    async with Database(url) as db:
        scheduler = BatchScheduler(settings, url, runners)
        yield Bench(Store(db), settings, runners), runners, scheduler
        await scheduler.close()
        for runner_id in list(runners.runners):
            await runners.kill(runner_id)
            await runners.runners[runner_id].close()


Stack = tuple[Bench, Failing, BatchScheduler]


@pytest.mark.parametrize("why", [errors.RunnerUnavailable("no room"), ValueError("odd")])
async def test_what_is_not_the_codes_fault_is_waited_for(bench: Stack, why: Exception) -> None:
    one, runners, _ = bench
    runners.reasons = [why] * 6
    batch = await one.batch(await one.register(SPEC), [{}], cases(8))
    assert (await one.ended(batch)).counts == {"DONE": 8}


async def test_tries_that_are_made_together_count_once(bench: Stack) -> None:
    one, runners, _ = bench
    runners.reasons = [errors.EntryFailed("too slow this time")] * 4
    batch = await one.batch(await one.register(SPEC), [{}], cases(16))
    assert (await one.ended(batch)).counts == {"DONE": 16}


async def test_code_that_fails_again_and_again_fails_its_batch(bench: Stack) -> None:
    one, runners, _ = bench
    runners.reasons = [errors.EntryFailed("the entry raised")] * 50
    batch = await one.batch(await one.register(SPEC), [{}], cases(16))
    ended = await one.ended(batch)
    assert (ended.status, ended.reason) == ("FAILED", "the entry raised")
    assert ended.counts == {"CANCELLED": 16}
    assert runners.tried == 4 + 3, "all at once, and then one at a time"


async def test_a_registration_that_never_ended_holds_up_nobody(bench: Stack) -> None:
    one, runners, scheduler = bench
    # A runner that described its project, whose controller died before it stored the version.
    orphan = await runners.spawn(SPEC.model_copy(update={"description": "never stored"}))
    for spec in (SPEC, SPEC.model_copy(update={"description": "second"})):
        batch = await one.batch(await one.register(spec), [{}], cases(8))
        assert (await one.ended(batch)).counts == {"DONE": 8}
    served = {id for ids in (await scheduler.status()).values() for id in ids}
    assert served == set(runners.runners) - {orphan}


async def test_a_pool_without_runners_and_work_is_forgotten(bench: Stack) -> None:
    one, runners, scheduler = bench
    batch = await one.batch(await one.register(SPEC), [{}], cases(4))
    await one.ended(batch)
    for runner in await one.store.leases.runners():
        await runners.kill(runner.id)
        await one.store.leases.bury(runner.id, runner.epoch, "idle", actor="test")
    async with asyncio.timeout(10):
        while await scheduler.status():
            await asyncio.sleep(0.05)
    again = await one.batch(await one.register(SPEC), [{}], cases(4))
    assert (await one.ended(again)).counts == {"DONE": 4}
