"""Nodes in processes of their own: what crosses to them and back, and what is refused."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.test_scheduling import Bench, LocalRunners
from tests.integration.test_tracking import TRACKED, eventually, until
from wtb_ray import errors
from wtb_ray.actors.lifecycle import ActorLifecycle
from wtb_ray.actors.node import NodeProcess
from wtb_ray.actors.runner import VariantRunner
from wtb_ray.actors.scheduler import BatchScheduler
from wtb_ray.apartness import Description
from wtb_ray.bindings import Apart
from wtb_ray.db import Database
from wtb_ray.environment import EnvironmentConfig, EnvSpec, ExecutionConfig, NodeResourceConfig
from wtb_ray.model import Execution, Parking, ProjectSpec, VariantSpec, new_id
from wtb_ray.settings import Settings
from wtb_ray.states import ExecutionStatus as E
from wtb_ray.states import PauseStrategy as P
from wtb_ray.store import Store
from wtb_ray.store.parking import Due
from wtb_ray.views import read_state

ALONE = NodeResourceConfig(num_cpus=1)


class LocalNode:
    """A node's process as an object of this one; what goes over is packed all the same."""

    environment = "e" * 64

    def __init__(self, process: NodeProcess) -> None:
        self.process = process
        self.killed = False
        self.describe = process.describe
        self.quiet = process.quiet
        self.grant = process.grant

    async def run(self, call: bytes) -> AsyncGenerator[bytes, None]:
        stream = self.process.run(call)
        try:
            async for part in stream:
                yield part
        finally:
            await stream.aclose()

    async def kill(self) -> None:
        self.killed = True


class LocalNodes:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.made: list[LocalNode] = []
        self.missing = False

    async def spawn(self, spec: ProjectSpec, apart: Apart, *, describing: bool) -> LocalNode:
        if self.missing and not describing:
            raise errors.ResourcesUnavailable("no host has that", node=apart.node)
        node = LocalNode(NodeProcess(spec, apart, self.settings, LocalNode.environment))
        await node.process.prepare()
        self.made.append(node)
        return node


class ApartRunners(LocalRunners):
    def __init__(self, settings: Settings, url: str) -> None:
        super().__init__(settings, url)
        self.nodes = LocalNodes(settings)

    async def spawn(self, spec: ProjectSpec, *, solo: bool = False) -> str:
        runner = VariantRunner(new_id("r"), spec, self.settings, self.url, solo, self.nodes)
        self.runners[runner.id] = runner
        await runner.prepare()
        await runner.start()
        return runner.id


class ApartBench(Bench):
    runners: ApartRunners

    async def describe(self, spec: ProjectSpec) -> Any:
        runner = VariantRunner(
            new_id("r"), spec, self.settings, self.runners.url, False, self.runners.nodes
        )
        try:
            await runner.prepare()
            return await runner.describe()
        finally:
            await runner.close()

    async def run(self, spec: ProjectSpec, state: dict[str, Any], *ends: E) -> Execution:
        version = await self.registered(spec)
        made = await self.store.executions.create(
            version, {}, state, recursion_limit=20, actor="test"
        )
        return await until(self, made.id, *ends)

    async def registered(self, spec: ProjectSpec) -> Any:
        graph, workflows = await self.describe(spec)
        return await self.store.projects.register(spec, graph, workflows, actor="test")

    async def parking(self, id: str) -> Parking:
        async with asyncio.timeout(10):
            while (found := (await self.store.executions.get(id)).parking) is None:
                await asyncio.sleep(0.02)
        return found

    async def state(self, execution: Execution) -> dict[str, Any]:
        assert execution.head is not None
        return await read_state(self.store.db, execution.thread_id, execution.head)


@pytest_asyncio.fixture
async def bench(url: str, tmp_path: Path) -> AsyncIterator[ApartBench]:
    settings = Settings(
        data_dir=tmp_path,
        runner_slots=8,
        runners_per_pool=1,
        lease_ttl_s=5.0,
        stop_grace_s=0.3,
        infrastructure_retries=2,
    )
    runners = ApartRunners(settings, url)
    async with Database(url) as db:
        scheduler = BatchScheduler(settings, url, runners)
        lifecycle = ActorLifecycle(settings, url, runners)
        yield ApartBench(Store(db), settings, runners)
        for actor in (scheduler, lifecycle):
            await actor.close()
        for runner_id in list(runners.runners):
            await runners.kill(runner_id)
            await runners.runners[runner_id].close()


def spec(entry: str = "graph", *nodes: str, **more: Any) -> ProjectSpec:
    resources = dict.fromkeys(nodes or ("remote", "parcel"), ALONE)
    return ProjectSpec(
        name="apart",
        entry=f"tests.apart:{entry}",
        execution=ExecutionConfig(node_resources=resources),
        **more,
    )


async def test_values_params_and_the_runtime_cross(bench: ApartBench) -> None:
    variants = {"remote": {"p": VariantSpec(params={"k": 7})}}
    version = await bench.registered(spec(variants=variants))
    assert [node.name for node in version.graph.nodes if node.apart] == ["remote", "parcel"]
    made = await bench.store.executions.create(
        version, {"remote": "p"}, {"x": 1}, recursion_limit=20, actor="test"
    )
    done = await until(bench, made.id)
    assert done.status == E.COMPLETED, done.error
    state = await bench.state(done)
    assert state["said"] == [{"k": 7}, "remote", 1]
    steps = await bench.store.executions.steps(done.id)
    ran = {run.name: run.environment for step in steps for run in step.nodes}
    assert ran == {"local": None, "remote": LocalNode.environment}
    used = {run.name: run.usage for step in steps for run in step.nodes}
    assert used == {"local": {"tokens": 2}, "remote": {"tokens": 41, "cost": 0.5}}
    assert {step.environment for step in steps} == {done.environment}
    assert done.environment is not None
    known = await bench.store.environments.get(done.environment)
    assert known.packages is not None
    assert "langgraph" in known.packages


async def test_commands_and_sends_go_where_they_say(bench: ApartBench) -> None:
    gone = await bench.run(spec(), {"x": 1, "how": "goto"})
    assert (await bench.state(gone))["said"] == ["gone", "far"]
    sent = await bench.run(spec(), {"x": 1, "how": "send"})
    assert sorted((await bench.state(sent))["said"]) == [10, 20, 30]
    steps = await bench.store.executions.steps(sent.id)
    parcels = [run.usage for step in steps for run in step.nodes if run.name == "parcel"]
    assert sorted(used["parcels"] for used in parcels) == [1, 2, 3], "each its own"


async def test_a_node_apart_asks_and_is_answered_in_order(bench: ApartBench) -> None:
    asked = await bench.run(spec(), {"x": 1, "how": "ask"})
    for number, said in enumerate(("first", "second")):
        assert (asked.status, asked.reason) == (E.PAUSED, "interrupt"), (number, asked)
        [question] = await bench.store.control.asked(asked.id)
        open_ = [q for q in [question] if not q["answered"]]
        assert [q["value"] for q in open_] == [{"ask": said}]
        await bench.store.control.answer(asked.id, {question["id"]: said.upper()}, actor="me")
        asked = await until(bench, asked.id)
    assert asked.status == E.COMPLETED, asked.error
    assert (await bench.state(asked))["said"] == ["FIRST", "SECOND"]


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("raise", "KeyError", "nothing there"),
        ("odd", "Odd", "this and that"),
        ("exit", "SystemExit", "3"),
        ("unpicklable", "TypeError", "cannot leave its process"),
    ],
)
async def test_what_a_node_raises_is_told_as_what_it_is(
    bench: ApartBench, how: str, kind: str, message: str
) -> None:
    failed = await bench.run(spec(), {"x": 1, "how": how})
    assert failed.status == E.FAILED
    assert failed.error is not None
    assert (failed.error.type, failed.error.node) == (kind, "remote")
    assert message in failed.error.message
    if how in ("raise", "odd"):
        assert "apart.py" in (failed.error.traceback or ""), "where in the user's code"


async def test_retries_and_timeouts_are_the_graphs(bench: ApartBench) -> None:
    tried = await bench.run(spec("tried", "flaky"), {"x": 1})
    assert (await bench.state(tried))["said"] == [3]
    [run] = [run for s in await bench.store.executions.steps(tried.id) for run in s.nodes]
    assert run.usage == {"tries": 3}, "of all attempts"
    log = bench.settings.data_dir / "log"
    late = await bench.run(spec("timed", "remote"), {"x": 1, "how": "hang", "log": str(log)})
    assert late.status == E.FAILED
    assert late.error is not None
    assert "Timeout" in late.error.type


async def test_files_of_a_node_apart_are_kept_with_the_checkpoint(bench: ApartBench) -> None:
    done = await bench.run(spec(file_tracking=TRACKED), {"x": 1, "how": "files"})
    assert done.status == E.COMPLETED, done.error
    assert (await bench.state(done))["said"] == ["workspace:made.txt"]
    assert (await bench.store.files.manifest_at(done.id)) is not None


async def test_a_stop_ends_a_node_apart(bench: ApartBench, tmp_path: Path) -> None:
    log = tmp_path / "log"
    version = await bench.registered(spec())
    state = {"x": 1, "how": "hang", "log": str(log)}
    made = await bench.store.executions.create(version, {}, state, recursion_limit=20, actor="test")
    await eventually(log.exists)
    await bench.store.executions.request_stop(made.id, actor="me")
    assert (await until(bench, made.id)).status == E.CANCELLED
    [*_, node] = bench.runners.nodes.made
    assert not node.killed, "its call has ended, so it serves on"
    assert await node.quiet("any", 0.1)


async def test_a_node_that_no_stop_ends_loses_its_process(
    bench: ApartBench, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    version = await bench.registered(spec("slow", "blocking"))
    made = await bench.store.executions.create(
        version, {}, {"log": str(log)}, recursion_limit=20, actor="test"
    )
    await eventually(log.exists)
    await bench.store.executions.request_stop(made.id, actor="me")
    assert (await until(bench, made.id)).status == E.CANCELLED
    [*_, node] = bench.runners.nodes.made
    await eventually(lambda: node.killed)
    Path(f"{log}.open").touch()


async def test_what_no_host_has_is_waited_for_with_its_reason(
    bench: ApartBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wtb_ray.plan.WAIT_S", 0.1)
    version = await bench.registered(spec())
    bench.runners.nodes.missing = True
    made = await bench.store.executions.create(
        version, {}, {"x": 1}, recursion_limit=20, actor="test"
    )

    async def waiting() -> Execution:
        async with asyncio.timeout(30):
            while True:
                found = await bench.store.executions.get(made.id)
                if found.status == E.PENDING and (found.reason or "").startswith("waiting: "):
                    return found
                await asyncio.sleep(0.02)

    found = await waiting()
    assert found.reason == "waiting: no host has that"
    await asyncio.sleep(1)
    assert (await waiting()).attempt == 0, "waiting is no attempt"
    bench.runners.nodes.missing = False
    assert (await until(bench, made.id, E.COMPLETED, E.FAILED)).status == E.COMPLETED


async def test_a_warm_pause_ends_the_processes_of_nodes(bench: ApartBench) -> None:
    version = await bench.registered(spec())
    made = await bench.store.executions.create(
        version,
        {},
        {"x": 1, "how": "goto"},
        recursion_limit=20,
        breakpoints=("before:far",),
        actor="test",
    )
    paused = await until(bench, made.id)
    assert (paused.status, paused.reason) == (E.PAUSED, "breakpoint")
    parking = await bench.parking(made.id)
    assert "nodes" in parking.kept, "nobody said how long"
    [*_, node] = bench.runners.nodes.made
    assert not node.killed
    [runner] = bench.runners.runners
    due = Due(made.id, paused.epoch, version.version, {}, P.WARM, runner, True, None)
    assert await bench.runners.ask(runner, "park", due)
    parking = await bench.parking(made.id)
    assert {"graph", "nodes"} <= set(parking.released)
    assert node.killed
    await bench.store.control.resume(made.id, actor="me")
    done = await until(bench, made.id, E.COMPLETED, E.FAILED)
    assert done.status == E.COMPLETED, done.error


@pytest.mark.parametrize(
    ("entry", "node", "reason"),
    [
        ("outer", "sub", "subgraph"),
        ("managed", "n", "managed value 'left'"),
        ("stored", "n", "LangGraph's store"),
    ],
)
async def test_what_cannot_cross_is_refused_at_registration(
    bench: ApartBench, entry: str, node: str, reason: str
) -> None:
    with pytest.raises(errors.UnsupportedNode, match=reason):
        await bench.describe(spec(entry, node))


async def test_a_node_inside_a_subgraph_runs_apart(bench: ApartBench) -> None:
    done = await bench.run(spec("outer", "sub/remote"), {"x": 1})
    assert done.status == E.COMPLETED, done.error
    assert (await bench.state(done))["said"] == [{}, "remote", 1]


async def test_resources_of_a_node_that_is_not_there_are_refused(bench: ApartBench) -> None:
    with pytest.raises(errors.UnknownNode, match="nowhere"):
        await bench.describe(spec("graph", "nowhere"))


async def test_an_environment_that_only_sets_variables_is_an_environment(
    bench: ApartBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WTB_SECRETS_DIR", str(tmp_path / "secrets"))
    own = EnvSpec(secrets=("API_TOKEN",))
    config = EnvironmentConfig(granularity="node", node_environments={"remote": own})
    project = ProjectSpec(name="apart", entry="tests.apart:graph", environment=config)
    with pytest.raises(errors.SecretMissing, match="API_TOKEN"):
        await bench.describe(project)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "API_TOKEN").write_text("sesame-opens\n")
    try:
        graph, _ = await bench.describe(project)
    finally:
        os.environ.pop("API_TOKEN", None)
    [node] = [node for node in graph.nodes if node.apart]
    assert node.name == "remote"


def test_descriptions_are_told_apart_by_what_they_run_in() -> None:
    one = Description("m:f", True, "a", None, None)
    assert one != Description("m:f", True, "b", None, None)
