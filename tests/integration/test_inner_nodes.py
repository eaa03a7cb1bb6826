"""What the nodes inside of subgraphs did, as `GET executions/{id}/nodes` tells it."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from typer.testing import CliRunner

from tests import nesting
from tests.integration.steering_bench import SteeringBench, address, bench
from wtb_ray.cli import app
from wtb_ray.model import ProjectSpec, VariantSpec

__all__ = ["address", "bench"]

GRAPH = ProjectSpec(
    name="nested",
    entry="tests.nesting:graph",
    variants={"outer": {"flat": VariantSpec(implementation="tests.nesting:ask")}},
)
INNER = ("a", "b", "both", "sent", "deep", "deep/slow", "deep/fail", "ask")


def spec(entry: str) -> ProjectSpec:
    return ProjectSpec(name=entry, entry=f"tests.nesting:{entry}")


async def nodes(bench: SteeringBench, id: str) -> dict[str, Any]:
    return {node["name"]: node for node in await bench.http.get(f"/executions/{id}/nodes")}


async def statuses(bench: SteeringBench, id: str) -> Mapping[str, tuple[str, int]]:
    """Status and runs of what is inside of `outer`, by the rest of its name."""
    found = await nodes(bench, id)
    return {
        name.removeprefix("outer/"): (node["status"], node["runs"])
        for name, node in found.items()
        if name.startswith("outer/")
    }


async def test_nodes_of_subgraphs_have_run_or_were_skipped(bench: SteeringBench) -> None:
    await bench.register(GRAPH)
    waiting = await bench.start(GRAPH, initial_state={}, breakpoints=["before:outer"])
    await bench.rest(waiting)
    pending = dict.fromkeys((*INNER, "never"), ("pending", 0))
    assert await statuses(bench, waiting) == pending
    await bench.post(f"/executions/{waiting}/resume")
    assert (await bench.rest(waiting))["status"] == "COMPLETED"
    ran = dict.fromkeys(INNER, ("completed", 1))
    assert await statuses(bench, waiting) == {**ran, "never": ("skipped", 0)}
    found = await nodes(bench, waiting)
    inside = found["outer/deep/slow"]
    assert (inside["duration_ms"], inside["entry"], inside["exit"]) == (None, None, None)
    assert list(found)[:4] == ["before", "outer", "outer/a", "outer/b"]
    assert (found["outer"]["status"], found["outer"]["runs"]) == ("completed", 1)

    stopped = await bench.start(GRAPH, initial_state={}, breakpoints=["before:outer"])
    await bench.rest(stopped)
    await bench.post(f"/executions/{stopped}/stop", status=202)
    assert set((await statuses(bench, stopped)).values()) == {("skipped", 0)}


async def test_a_subgraph_is_seen_from_inside_while_it_runs(bench: SteeringBench) -> None:
    await bench.register(GRAPH)
    nesting.GATES["g"] = asyncio.Event()
    id = await bench.start(GRAPH, initial_state={"gate": "g", "asks": True})
    async with asyncio.timeout(20):
        while (found := await statuses(bench, id))["deep/slow"][0] != "running":
            await asyncio.sleep(0.02)
    ran = dict.fromkeys(("a", "b", "both", "sent"), ("completed", 1))
    rest = {
        **dict.fromkeys(("deep", "deep/slow"), ("running", 0)),
        **dict.fromkeys(("deep/fail", "ask", "never"), ("pending", 0)),
    }
    assert found == {**ran, **rest}
    nesting.GATES["g"].set()

    assert (await bench.rest(id))["reason"] == "interrupt"
    ran |= dict.fromkeys(("deep", "deep/slow", "deep/fail"), ("completed", 1))
    assert await statuses(bench, id) == {**ran, **dict.fromkeys(("ask", "never"), ("pending", 0))}
    [question] = await bench.http.get(f"/executions/{id}/interrupts")
    await bench.post(f"/executions/{id}/interrupts", {"answers": {question["id"]: "yes"}})
    assert (await bench.rest(id))["status"] == "COMPLETED"
    assert (await statuses(bench, id))["ask"] == ("completed", 1)


async def test_a_failure_deep_down_is_that_of_all_around_it(bench: SteeringBench) -> None:
    await bench.register(GRAPH)
    id = await bench.start(GRAPH, initial_state={"fails": True})
    failed = await bench.rest(id)
    assert (failed["status"], failed["error"]["node"]) == ("FAILED", "outer/deep/fail")
    found = await nodes(bench, id)
    assert {n for n, node in found.items() if node["status"] == "failed"} == {
        "outer",
        "outer/deep",
        "outer/deep/fail",
    }
    assert found["outer/deep/slow"]["status"] == "completed"
    assert (found["outer/ask"]["status"], found["after"]["status"]) == ("pending", "pending")


@pytest.mark.parametrize("entry", ["again", "remembering"])
async def test_each_call_of_a_subgraph_counts_on_the_present_branch_alone(
    bench: SteeringBench, entry: str
) -> None:
    await bench.register(spec(entry))
    id = await bench.start(spec(entry), initial_state={})
    await bench.rest(id)
    assert await statuses(bench, id) == dict.fromkeys(("slow", "fail"), ("completed", 3))
    checkpoints = (await bench.http.get(f"/executions/{id}/checkpoints"))["items"]
    place = next(c["id"] for c in checkpoints if c["step"] == 3)  # after the first round
    await bench.post(f"/executions/{id}/rollback", {"checkpoint_id": place})
    assert await statuses(bench, id) == dict.fromkeys(("slow", "fail"), ("completed", 1))
    fork = await bench.post(f"/executions/{id}/fork", {"run": True}, 201)
    [made] = fork["executions"]
    await bench.rest(made["id"])
    assert await statuses(bench, made["id"]) == dict.fromkeys(("slow", "fail"), ("completed", 3))


async def test_what_cannot_be_told_is_unknown(bench: SteeringBench, address: str) -> None:
    await bench.register(spec("forgetful"))
    id = await bench.start(spec("forgetful"), initial_state={}, breakpoints=["outer"])
    await bench.rest(id)
    assert await statuses(bench, id) == dict.fromkeys(("slow", "fail"), ("pending", 0))
    await bench.post(f"/executions/{id}/resume")
    await bench.rest(id)
    assert await statuses(bench, id) == dict.fromkeys(("slow", "fail"), ("unknown", 0))
    words = ["exec", "node", id]
    shown = await asyncio.to_thread(
        CliRunner().invoke, app, words, env={"WTB_URL": address, "COLUMNS": "180"}
    )
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert ["outer/slow", "unknown", "0", "–", "–", "–"] in lines


async def test_a_subgraph_that_is_replaced_has_nothing_inside(bench: SteeringBench) -> None:
    await bench.register(GRAPH)
    id = await bench.start(GRAPH, initial_state={}, variant_config={"outer": "flat"})
    await bench.rest(id)
    assert list(await nodes(bench, id)) == ["before", "outer", "after"]
