"""Environments as a host has them: built once, side by side, refused by name, remembered."""

import asyncio
import hashlib
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.venv_bench import VenvBench, alpha, happened, imported
from tests.wheels import make_wheel
from wtb_ray import environments, errors, venvs
from wtb_ray.actors.venvs import VenvCache
from wtb_ray.db import Database
from wtb_ray.environment import EnvSpec
from wtb_ray.states import VenvStatus
from wtb_ray.store import Store

ROOT = Path(__file__).parents[2]


async def test_two_versions_of_a_library_side_by_side(
    host: VenvBench, wheels_bundle: str, db: Database
) -> None:
    async with host.cache() as cache:
        one, two = await asyncio.gather(
            cache.acquire(alpha("1.0"), wheels_bundle), cache.acquire(alpha("2.0"), wheels_bundle)
        )
    assert [await imported(one.python), await imported(two.python)] == ["1.0", "2.0"]
    assert (one.packages, two.packages) == ({"alpha": "1.0"}, {"alpha": "2.0"})
    assert not one.hit
    store = Store(db)
    row = await store.venvs.get("here", one.venv)
    assert row is not None
    assert (row.status, row.path) == (VenvStatus.READY, one.path)
    assert row.bytes > 0
    assert (await store.environments.get(one.environment)).packages == {"alpha": "1.0"}
    kinds = Counter(event.type for event in await happened(db))
    assert kinds == {"environment.registered": 2, "venv.built": 2}
    assert host.leftovers() == []


async def test_the_bench_itself_runs_in_an_environment(
    host: VenvBench, wheels_bundle: str, tmp_path: Path
) -> None:
    cache = VenvCache(host.settings(), host.url, "here")
    try:
        venv = await cache.acquire(alpha(env_vars={"A": "1"}), wheels_bundle)
    finally:
        await cache.close()
    assert venv.python is not None
    code = (
        "import sys, alpha, ray, pydantic, wtb_ray.venvs as v;"
        "h = v.hold(sys.executable);"
        "print(alpha.VERSION, ray.__version__, pydantic.__version__, v.__file__)"
    )
    run = subprocess.run([venv.python, "-c", code], capture_output=True, text=True, check=True)
    base = environments.base()
    assert run.stdout.split() == ["1.0", base.ray, base.packages["pydantic"], venvs.__file__]


async def test_what_installs_nothing_needs_no_venv(host: VenvBench, db: Database) -> None:
    spec = EnvSpec(env_vars={"MODE": "fast"}, secrets=("KEY",))
    async with host.cache() as cache:
        venv = await cache.acquire(spec)
    assert (venv.path, venv.python, venv.packages, venv.hit) == (None, None, {}, True)
    assert not host.root.exists()
    assert [event.type for event in await happened(db)] == ["environment.registered"]


async def test_environments_that_differ_in_variables_share_what_is_installed(
    host: VenvBench, wheels_bundle: str
) -> None:
    async with host.cache() as cache:
        one = await cache.acquire(alpha(env_vars={"A": "1"}), wheels_bundle)
        two = await cache.acquire(alpha(env_vars={"A": "2"}, secrets=("KEY",)), wheels_bundle)
        stats = await cache.stats()
    assert one.environment != two.environment
    assert (one.venv, one.path) == (two.venv, two.path)
    assert two.hit
    assert (stats.hits, stats.misses, stats.builds, stats.entries) == (1, 1, 1, 1)


async def test_other_wheels_of_the_same_name_are_another_environment(
    host: VenvBench, wheels_bundle: str, tmp_path: Path
) -> None:
    make_wheel(tmp_path / "project" / "wheels", "alpha", "1.0", body="CHANGED = True\n")
    changed = await host.bundle(tmp_path / "project")
    async with host.cache() as cache:
        one = await cache.acquire(alpha(), wheels_bundle)
        two = await cache.acquire(alpha(), changed)
    assert one.venv != two.venv
    assert await imported(two.python) == "1.0"


async def test_whoever_asks_at_once_shares_one_build(
    host: VenvBench, wheels_bundle: str, db: Database
) -> None:
    command = [sys.executable, "-m", "tests.venv_worker", "acquire"]
    command += [str(host.data_dir), host.url, wheels_bundle, "10"]
    processes = [
        await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    said = await asyncio.gather(*(process.communicate() for process in processes))
    pythons = [line for out, _ in said for line in out.decode().split()]
    assert len(pythons) == 20
    assert len(set(pythons)) == 1
    assert len(await happened(db, "venv.built")) == 1
    assert len(host.directories()) == 1


async def test_a_hit_takes_no_time(host: VenvBench, wheels_bundle: str) -> None:
    spec = alpha()
    async with host.cache() as cache:
        await cache.acquire(spec, wheels_bundle)
        times = []
        for _ in range(200):
            began = time.perf_counter()
            assert (await cache.acquire(spec, wheels_bundle)).hit
            times.append(time.perf_counter() - began)
    assert statistics.median(times) < 0.010


async def test_another_process_finds_what_is_there(host: VenvBench, wheels_bundle: str) -> None:
    async with host.cache() as cache:
        one = await cache.acquire(alpha(), wheels_bundle)
    async with host.cache() as cache:
        two = await cache.acquire(alpha(), wheels_bundle)
    assert two.hit
    assert two.path == one.path


async def test_a_conflict_with_the_bench_names_both(host: VenvBench, wheels_bundle: str) -> None:
    have = environments.base().packages["pydantic"]
    asked = {
        "packages": EnvSpec(packages=("pydantic<2",)),
        "lock": EnvSpec(lock="pydantic==1.10.0"),
        "requirement": EnvSpec(packages=("deep",), find_links=("wheels",)),
    }
    async with host.cache() as cache:
        for spec in asked.values():
            with pytest.raises(errors.EnvironmentConflict) as e:
                await cache.acquire(spec, wheels_bundle)
            details = e.value.details
            assert details["required"] in ("pydantic<2", "pydantic==1.10.0")
            assert details["bench"] == f"pydantic=={have}"
            assert details["bench_needs"].startswith("wtb-ray 0.1.0 requires pydantic")
            for word in (details["required"], details["bench"]):
                assert word in e.value.message
    assert details["required_by"] == "needy"
    assert "needy" in details["uv"]


@pytest.mark.parametrize(
    ("spec", "reason", "word"),
    [
        (EnvSpec(packages=("nowhere-to-be-found",)), "no_such_package", "nowhere-to-be-found"),
        (EnvSpec(packages=("alpha>3",), find_links=("wheels",)), "no_such_version", "alpha>3"),
        (
            EnvSpec(packages=("alpha<2", "alpha>=2"), find_links=("wheels",)),
            "versions_conflict",
            "alpha>=2",
        ),
        (
            EnvSpec(lock=f"alpha==1.0 --hash=sha256:{'0' * 64}", find_links=("wheels",)),
            "hash_mismatch",
            "Hash mismatch",
        ),
        (EnvSpec(lock="alpha>=1", find_links=("wheels",)), "not_pinned", "alpha>=1"),
        (EnvSpec(packages=("alpha",), find_links=("nothing",)), "missing", "nothing"),
        (EnvSpec(requirements="./wheels/none-1-py3-none-any.whl"), "missing", "none-1"),
    ],
)
async def test_what_cannot_be_built_says_why_in_uvs_words(
    host: VenvBench, wheels_bundle: str, spec: EnvSpec, reason: str, word: str
) -> None:
    async with host.cache() as cache:
        with pytest.raises(errors.EnvironmentFailed) as e:
            await cache.acquire(spec, wheels_bundle)
    assert e.value.details["reason"] == reason
    assert word in e.value.message
    assert not host.root.exists() or host.directories() == []
    assert host.leftovers() == []


async def test_a_lock_with_right_hashes_and_a_wheel_by_its_path(
    host: VenvBench, wheels_bundle: str, tmp_path: Path
) -> None:
    wheel = tmp_path / "project" / "wheels" / "alpha-1.0-py3-none-any.whl"
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    lock = f"alpha==1.0 \\\n    --hash=sha256:{digest}\nnever==1 ; python_version < '3' --hash=sha256:0\n"
    by_path = EnvSpec(requirements="# ours\n./wheels/alpha-2.0-py3-none-any.whl\n")
    async with host.cache() as cache:
        locked = await cache.acquire(EnvSpec(lock=lock, find_links=("wheels",)), wheels_bundle)
        direct = await cache.acquire(by_path, wheels_bundle)
        with pytest.raises(errors.EnvironmentFailed) as e:
            await cache.acquire(by_path, None)
    assert e.value.details["reason"] == "no_folder"
    assert [await imported(locked.python), await imported(direct.python)] == ["1.0", "2.0"]
    assert direct.packages == {"alpha": "2.0"}


async def test_another_python_is_refused_by_both_names(host: VenvBench) -> None:
    async with host.cache() as cache:
        with pytest.raises(errors.PythonMismatch) as e:
            await cache.acquire(EnvSpec(python_version="2.7", packages=("alpha",)))
    assert e.value.details["required"] == "2.7"
    assert e.value.details["bench"] == environments.base().python


async def test_a_refusal_is_remembered_until_it_is_retried(
    host: VenvBench, wheels_bundle: str, db: Database
) -> None:
    spec = EnvSpec(packages=("nowhere-to-be-found",))

    async def refused(cache: VenvCache) -> errors.EnvironmentFailed:
        with pytest.raises(errors.EnvironmentFailed) as e:
            await cache.acquire(spec)
        return e.value

    async with host.cache() as cache:
        first = await refused(cache)
        (failure,) = await happened(db, "venv.failed")
        assert failure.payload["permanent"]
        assert failure.payload["error"]["message"] == first.message
    async with host.cache() as cache:
        again = await refused(cache)
        assert again.body() == first.body()
        assert len(await happened(db, "venv.failed")) == 1
        assert await cache.retry(failure.payload["venv"])
        assert not await cache.retry(failure.payload["venv"])
        await refused(cache)
        assert len(await happened(db, "venv.failed")) == 2
        assert (await cache.stats()).failures == 1


async def test_what_may_pass_is_not_remembered(
    host: VenvBench,
    wheels_bundle: str,
    db: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as unreachable:
        unreachable.delenv("UV_CONFIG_FILE")
        unreachable.setenv("UV_NO_CONFIG", "1")
        unreachable.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
        unreachable.setenv("UV_HTTP_RETRIES", "0")
        async with host.cache() as cache:
            with pytest.raises(errors.PackageIndexUnavailable) as e:
                await cache.acquire(alpha(), wheels_bundle)
    assert "127.0.0.1:9" in e.value.message
    async with host.cache(venv_build_timeout_s=0.001) as cache:
        with pytest.raises(errors.Unavailable) as late:
            await cache.acquire(alpha(), wheels_bundle)
    assert late.value.details["setting"] == "venv_build_timeout_s"
    assert [event.payload["permanent"] for event in await happened(db, "venv.failed")] == [
        False
    ] * 2
    assert host.leftovers() == []
    async with host.cache() as cache:
        assert await imported((await cache.acquire(alpha(), wheels_bundle)).python) == "1.0"


async def test_a_place_that_ray_could_not_start_from_is_refused_by_name(
    host: VenvBench, wheels_bundle: str
) -> None:
    odd = VenvBench(host.data_dir / "with space", host.url)
    async with odd.cache() as cache:
        with pytest.raises(errors.ConfigurationError) as e:
            await cache.acquire(EnvSpec(packages=("alpha",)))
    assert e.value.details["setting"] == "data_dir"
    assert "with space" in e.value.message


async def test_what_hides_the_bench_is_not_used(host: VenvBench, tmp_path: Path) -> None:
    make_wheel(tmp_path / "bad" / "wheels", "sly", "1.0", module="packaging", body="1 / 0\n")
    bundle = await host.bundle(tmp_path / "bad")
    async with host.cache() as cache:
        with pytest.raises(errors.EnvironmentFailed) as e:
            await cache.acquire(EnvSpec(packages=("sly",), find_links=("wheels",)), bundle)
    assert e.value.details["reason"] == "import_failed"
    assert "ZeroDivisionError" in e.value.message
    assert host.directories() == []
