"""Environments and what is built of them, as rows and events."""

import asyncio
from typing import Any

import pytest

from tests.integration.store_bench import StoreBench
from wtb_ray import errors
from wtb_ray.environment import EnvSpec, Pins
from wtb_ray.states import ExecutionStatus, VenvStatus

SPEC = EnvSpec(packages=("pandas>=2",), env_vars={"MODE": "fast"}, secrets=("KEY",))
ONE, OTHER = Pins(packages={"pandas": "2.3"}, lines=("pandas==2.3",)), Pins(lines=("pandas==2.4",))
VENV = "v" * 64


async def test_an_environment_is_registered_once(bench: StoreBench) -> None:
    store = bench.store.environments
    made = await asyncio.gather(
        *(store.register("e1", VENV, SPEC, actor=f"runner{i}") for i in range(5))
    )
    assert {one.digest for one in made} == {"e1"}
    assert made[0].spec == SPEC
    assert made[0].packages is None
    assert (await bench.types()).count("environment.registered") == 1
    with pytest.raises(errors.UnknownEnvironment):
        await store.get("other")


async def test_what_it_comes_down_to_is_said_once_for_all_that_share_it(bench: StoreBench) -> None:
    store = bench.store.environments
    await store.register("e1", VENV, SPEC, actor="me")
    await store.register("e2", VENV, SPEC, actor="me")
    assert await store.pins(VENV) is None
    settled = await asyncio.gather(store.settle(VENV, ONE), store.settle(VENV, OTHER))
    assert settled[0] == settled[1]
    assert settled[0] in (ONE, OTHER)
    late = await store.register("e3", VENV, SPEC, actor="me")
    for digest in ("e1", "e2"):
        assert (await store.get(digest)).packages == settled[0].packages
    assert late.packages == settled[0].packages
    assert await store.settle(VENV, OTHER) == await store.pins(VENV) == settled[0]


async def test_they_are_listed_newest_first_in_pages(bench: StoreBench) -> None:
    store = bench.store.environments
    for i in range(5):
        await store.register(f"e{i}", VENV, SPEC, actor="me")
    first = await store.list(limit=3)
    rest = await store.list(limit=3, after=first.next)
    assert [one.digest for one in (*first.items, *rest.items)] == ["e4", "e3", "e2", "e1", "e0"]
    assert rest.next is None
    with pytest.raises(errors.InvalidRequest):
        await store.list(after="nonsense")


async def test_one_that_executions_need_is_not_deleted(bench: StoreBench) -> None:
    store = bench.store.environments
    await store.register("e1", VENV, SPEC, actor="me")
    execution = await bench.execution()
    async with bench.db.connection() as conn:
        await conn.execute(
            "UPDATE executions SET environment = 'e1' WHERE id = %s", (execution.id,)
        )
    for status in ExecutionStatus:
        await bench.put(execution.id, status)
        if status in ("COMPLETED", "FAILED", "CANCELLED"):
            continue
        with pytest.raises(errors.Conflict) as e:
            await store.delete("e1", actor="me")
        assert e.value.details["executions"] == 1
    await bench.put(execution.id, "COMPLETED")
    await store.delete("e1", actor="me")
    assert (await bench.types()).count("environment.deleted") == 1
    with pytest.raises(errors.UnknownEnvironment):
        await store.delete("e1", actor="me")


async def test_how_it_stands_on_a_host_changes_only_as_it_may(bench: StoreBench) -> None:
    store = bench.store.venvs
    built: dict[str, Any] = {
        "bytes": 5,
        "seconds": 1.5,
        "packages": {"pandas": "2.3"},
        "actor": "me",
    }
    broken = errors.EnvironmentFailed("no such package", reason="no_such_package")

    async def status() -> tuple[VenvStatus, str | None] | None:
        row = await store.get("here", VENV)
        return None if row is None else (row.status, row.path)

    await store.fail("here", VENV, broken, permanent=True, actor="me")
    assert await status() is None
    await store.begin("here", VENV)
    assert await status() == ("BUILDING", None)
    assert not await store.invalidate("here", VENV, actor="me")
    await store.fail("here", VENV, broken, permanent=True, actor="me")
    row = await store.get("here", VENV)
    assert row is not None
    assert (row.error, row.permanent) == (broken.body(), True)
    assert await store.retry("here", VENV, actor="me")
    assert not await store.retry("here", VENV, actor="me")
    await store.begin("here", VENV)
    for _ in range(2):
        await store.ready("here", VENV, "/p/one", **built)
    await store.fail("here", VENV, broken, permanent=True, actor="me")
    assert await status() == ("READY", "/p/one")
    await store.used("here", {VENV: 3, "unknown": 1})
    await store.used("here", {VENV: 2})
    row = await store.get("here", VENV)
    assert row is not None
    assert (row.hits, row.bytes, row.build_s, row.error) == (5, 5, 1.5, None)
    assert await store.invalidate("here", VENV, actor="me")
    await store.begin("here", VENV)
    await store.ready("here", VENV, "/p/two", **built)
    await store.evicted("here", VENV, "/p/one", bytes=5, reason="invalid", actor="me")
    assert await status() == ("READY", "/p/two"), "another directory than that which went"
    await store.evicted("here", VENV, "/p/two", bytes=5, reason="size", actor="me")
    assert await status() is None
    types = [kind for kind in await bench.types() if kind.startswith("venv.")]
    assert types == [
        "venv.failed",
        "venv.invalidated",
        "venv.built",
        "venv.invalidated",
        "venv.built",
        "venv.evicted",
        "venv.evicted",
    ]


async def test_hosts_and_environments_are_looked_up(bench: StoreBench) -> None:
    store = bench.store.venvs
    for host, venv in (("a", "1"), ("a", "2"), ("b", "1")):
        await store.begin(host, venv)
    found = [
        [(one.host, one.venv) for one in rows]
        for rows in (
            await store.list(),
            await store.list(host="a"),
            await store.list(venv="1"),
            await store.list(host="b", venv="2"),
        )
    ]
    assert found == [
        [("a", "1"), ("a", "2"), ("b", "1")],
        [("a", "1"), ("a", "2")],
        [("a", "1"), ("b", "1")],
        [],
    ]
