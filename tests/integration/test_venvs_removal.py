"""What becomes of environments: held, leased, evicted, invalidated, copied, damaged, cut off."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.integration.disks import small_disk
from tests.venv_bench import VenvBench, alpha, happened, imported
from tests.wheels import make_wheel
from wtb_ray import environments, errors, locks, venvs
from wtb_ray.actors.venvs import VenvCache
from wtb_ray.db import Database
from wtb_ray.environment import EnvSpec, Venv
from wtb_ray.states import VenvStatus
from wtb_ray.store import Store

ROOT = Path(__file__).parents[2]
TINY_GB = 1e-9
SOON_S = 0.25


@contextmanager
def runner(python: str | None) -> Iterator["subprocess.Popen[str]"]:
    """Another process that runs in the environment."""
    command = [sys.executable, "-m", "tests.venv_worker", "hold", str(python)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


async def free(cache: VenvCache, spec: EnvSpec, bundle: str) -> Venv:
    """An environment whose lease is over."""
    venv = await cache.acquire(spec, bundle, lease_s=SOON_S)
    await asyncio.sleep(1.5 * SOON_S)
    return venv


def aged(venv: Venv, days: float) -> None:
    then = time.time() - days * 86_400
    os.utime(f"{venv.path}/{venvs.RECORD}", (then, then))


async def test_what_is_leased_stays_and_then_goes_for_its_size(
    host: VenvBench, wheels_bundle: str, db: Database
) -> None:
    async with host.cache(venv_max_gb=TINY_GB) as cache:
        leased = await cache.acquire(alpha("1.0"), wheels_bundle, lease_s=60)
        over = await free(cache, alpha("2.0"), wheels_bundle)
        await cache.prune()
        assert await imported(leased.python) == "1.0"
        assert host.directories() == [Path(str(leased.path)).name]
        (gone,) = await happened(db, "venv.evicted")
        assert gone.payload["path"] == over.path
        assert gone.payload["reason"] == "size"
        rows = await Store(db).venvs.list(host="here")
        assert [row.venv for row in rows] == [leased.venv]
        assert (await cache.stats()).evictions == 1
        again = await cache.acquire(alpha("2.0"), wheels_bundle)
        assert not again.hit
        assert again.path != over.path
    assert host.leftovers() == []


async def test_a_lease_ends_with_its_process(host: VenvBench, wheels_bundle: str) -> None:
    async with host.cache() as cache:
        await cache.acquire(alpha(), wheels_bundle, lease_s=600)
        assert venvs.sweep(host.root, most_bytes=0, max_age_s=600).held == 1
    assert [one.reason for one in venvs.sweep(host.root, most_bytes=0, max_age_s=600).gone] == [
        "size"
    ]


async def test_what_a_process_runs_in_stays_until_it_dies(
    host: VenvBench, wheels_bundle: str
) -> None:
    async with host.cache(venv_max_gb=TINY_GB) as cache:
        venv = await cache.acquire(alpha(), wheels_bundle, lease_s=SOON_S)
        with runner(venv.python) as process:
            await asyncio.sleep(1.5 * SOON_S)
            aged(venv, 30)
            report = await cache.prune()
            assert (report.gone, report.held, report.entries) == ((), 1, 1)
            assert await imported(venv.python) == "1.0"
            process.kill()
            process.wait()
            (gone,) = (await cache.prune()).gone
            assert gone.path == venv.path
    with pytest.raises(errors.Unavailable) as e:
        venvs.hold(str(venv.python))
    assert e.value.details["reason"] == "gone"


async def test_what_was_not_used_for_long_goes_first(host: VenvBench, wheels_bundle: str) -> None:
    async with host.cache() as cache:
        old, older, new = [
            await free(cache, alpha(version), wheels_bundle) for version in ("1.0", "2.0", "3.0")
        ]
        aged(old, 2)
        aged(older, 3)
        size = (await cache.stats()).bytes
        report = venvs.sweep(host.root, most_bytes=size - 1, max_age_s=7 * 86_400)
        assert [gone.path for gone in report.gone] == [older.path]
        assert (report.entries, report.bytes) == (2, (await cache.stats()).bytes)
        aged(old, 8)
        dry = await cache.prune(dry_run=True)
        assert [(gone.path, gone.reason) for gone in dry.gone] == [(old.path, "age")]
        assert Path(str(old.path)).exists()
        assert [gone.path for gone in (await cache.prune()).gone] == [old.path]
        assert host.directories() == [Path(str(new.path)).name]
        assert (await cache.acquire(alpha("3.0"), wheels_bundle)).hit
        assert not (await cache.acquire(alpha("1.0"), wheels_bundle)).hit


async def test_an_invalid_one_is_never_given_again(
    host: VenvBench, wheels_bundle: str, db: Database
) -> None:
    async with host.cache() as cache:
        venv = await cache.acquire(alpha(), wheels_bundle, lease_s=SOON_S)
        with runner(venv.python) as process:
            assert await cache.invalidate(venv.environment)
            row = await Store(db).venvs.get("here", venv.venv)
            assert row is not None
            assert row.status is VenvStatus.INVALID
            fresh = await cache.acquire(alpha(), wheels_bundle)
            assert not fresh.hit
            assert fresh.path != venv.path
            await cache.prune()
            assert await imported(venv.python) == "1.0", "whoever runs in it goes on"
            process.kill()
            process.wait()
        await cache.prune()
        assert host.directories() == [Path(str(fresh.path)).name]
        row = await Store(db).venvs.get("here", venv.venv)
        assert row is not None
        assert (row.status, row.path) == (VenvStatus.READY, fresh.path)
        assert len(await happened(db, "venv.invalidated")) == 1
        assert [event.payload["reason"] for event in await happened(db, "venv.evicted")] == [
            "invalid"
        ]
        assert not await cache.invalidate("0" * 64)


async def test_a_copy_is_whole_and_replaces_what_was_there(
    host: VenvBench, wheels_bundle: str, tmp_path: Path
) -> None:
    target = tmp_path / "ws" / ".venv"
    target.mkdir(parents=True)
    (target / "old").touch()
    async with host.cache() as cache:
        venv = await cache.acquire(alpha(), wheels_bundle)
        await cache.copy(venv.environment, str(target))
        assert await imported(f"{target}/bin/python") == "1.0"
        assert not (target / "old").exists()
        assert [path.name for path in target.parent.iterdir()] == [".venv"]
        with pytest.raises(errors.UnknownEnvironment):
            await cache.copy("0" * 64, str(target))
    assert venvs.damaged(target) == []


async def test_after_a_restart_of_the_host_only_what_is_whole_is_used(
    host: VenvBench, wheels_bundle: str
) -> None:
    async with host.cache() as cache:
        whole = await cache.acquire(alpha("1.0"), wheels_bundle)
        torn = await cache.acquire(alpha("2.0"), wheels_bundle)
    for one in venvs.listed(host.root):
        venvs.write(one.path, one.record.model_copy(update={"boot": "before"}))
    next(Path(str(torn.path)).glob("lib/python*/site-packages/alpha.py")).write_bytes(b"")
    async with host.cache() as cache:
        assert (await cache.acquire(alpha("1.0"), wheels_bundle)).path == whole.path
        again = await cache.acquire(alpha("2.0"), wheels_bundle)
        assert again.path != torn.path
        assert await imported(again.python) == "2.0"
    assert {one.record.boot for one in venvs.listed(host.root)} == {locks.boot()}


async def test_what_lies_over_another_base_is_not_used(host: VenvBench, wheels_bundle: str) -> None:
    async with host.cache() as cache:
        venv = await cache.acquire(alpha(), wheels_bundle)
    (one,) = venvs.listed(host.root)
    venvs.write(one.path, one.record.model_copy(update={"site": ("/elsewhere",)}))
    assert venvs.find(host.root, venv.venv, environments.base()) is None
    assert venvs.listed(host.root) == []


async def test_what_was_cut_off_is_swept_and_what_is_worked_on_is_not(
    host: VenvBench, wheels_bundle: str, db: Database
) -> None:
    store = Store(db)
    for name in (".tmp/cut-off/venv", ".trash/half", ".locks/nobody", "0123.halfrecord"):
        (host.root / name).mkdir(parents=True)
    await store.venvs.begin("here", "a" * 64)
    path = str(host.root / "gone")
    await store.venvs.ready(
        "here", "b" * 64, path, bytes=1, seconds=1, packages={}, actor="somebody"
    )
    async with host.cache() as cache, venvs.scratch(host.root) as (busy, _):
        await cache.prune()
        assert host.leftovers() == [str(busy)]
        assert host.directories() == []
        (cut_off,) = await store.venvs.list(host="here")
        assert (cut_off.status, cut_off.permanent) == (VenvStatus.FAILED, False)
        assert [event.payload["reason"] for event in await happened(db, "venv.evicted")] == [
            "invalid",
            "missing",
        ]
    assert host.leftovers() == []


async def test_a_build_that_is_given_up_ends_with_all_it_started(
    host: VenvBench, wheels_bundle: str
) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    async with host.cache() as cache:
        asked = asyncio.create_task(cache.acquire(alpha(), wheels_bundle))
        while not (host.root / ".tmp").is_dir():
            await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
    assert host.leftovers() == []
    async with host.cache() as cache:
        assert await imported((await cache.acquire(alpha(), wheels_bundle)).python) == "1.0"


async def test_a_full_disk_is_told_and_leaves_nothing(
    host: VenvBench, tmp_path: Path, db: Database
) -> None:
    make_wheel(tmp_path / "fat" / "wheels", "fat", "1.0", ballast=16 << 20)
    make_wheel(tmp_path / "fat" / "wheels", "alpha", "1.0")
    with small_disk(tmp_path / "small", "8m") as small:
        full = VenvBench(small, host.url)
        bundle = await full.bundle(tmp_path / "fat")
        async with full.cache() as cache:
            with pytest.raises(errors.StorageFull) as e:
                await cache.acquire(EnvSpec(packages=("fat",), find_links=("wheels",)), bundle)
            assert "No space left" in e.value.message
            assert full.directories() == []
            assert full.leftovers() == []
            (failed,) = await happened(db, "venv.failed")
            assert not failed.payload["permanent"]
            assert await imported((await cache.acquire(alpha(), bundle)).python) == "1.0"
