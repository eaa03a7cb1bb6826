"""Every shape of graph ends as LangGraph alone ends it: at once, in single steps, after crashes."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.integration.graph_bench import GraphBench, Ran
from tests.shapes import SHAPES, Shape
from wtb_ray.db import Database
from wtb_ray.saver import Saver

LIMIT = 25


async def alone(shape: Shape) -> tuple[Any, list[list[str]], Exception | None]:
    """What plain LangGraph makes of it: all channels, the nodes of each step, its error."""
    graph = shape.factory().compile()
    values: Any = None
    nodes: list[list[str]] = []
    error = None
    try:
        async for mode, chunk in graph.astream(
            shape.input,
            {"recursion_limit": LIMIT},
            stream_mode=["values", "debug"],
            output_keys=graph.stream_channels_asis,
        ):
            told: Any = chunk
            if mode == "values":
                values = told
            elif told["type"] == "task":
                nodes += [[] for _ in range(told["step"] - len(nodes))]
                nodes[told["step"] - 1].append(told["payload"]["name"])
    except ConnectionError as e:
        error = e
    return values if isinstance(values, dict) else {"__root__": values}, nodes, error


async def compare(shape: Shape, ran: Ran) -> None:
    values, nodes, error = await alone(shape)
    outcome = ran.outcome
    assert outcome is not None
    if error is not None:
        assert outcome.kind == "failed"
        assert outcome.fault is not None
        assert (outcome.fault.type, outcome.fault.message) == (type(error).__name__, str(error))
        nodes = nodes[:-1]
    else:
        assert (outcome.kind, outcome.fault) == ("completed", None)
        assert outcome.values == values
    steps = await ran.steps()
    assert [[run.name for run in step.nodes] for step in steps] == nodes
    assert [step.step for step in steps] == list(range(1, len(nodes) + 1))


async def all_shapes(db: Database, way: Callable[[Ran], Awaitable[Any]]) -> dict[str, Ran]:
    """Runs one execution of every shape in this way, all of them at once through one saver."""
    saver = Saver(db)

    async def one(shape: Shape) -> Ran:
        bench = await GraphBench.make(db, shape.entry, saver=saver)
        ran = await bench.execution(shape.input, recursion_limit=LIMIT)
        await way(ran)
        return ran

    done = await asyncio.gather(*map(one, SHAPES.values()))
    return dict(zip(SHAPES, done, strict=True))


async def cut_off(ran: Ran) -> None:
    """Runs it in pieces: each gets a little further before its runner is gone."""
    turns = 1
    while True:
        task = asyncio.create_task(ran.go())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            await ran.taken_over()
            turns = turns * 3 // 2 + 1
        else:
            return


@pytest.mark.parametrize("way", [Ran.go, Ran.stepwise, cut_off])
async def test_it_ends_as_without_the_bench(
    db: Database, way: Callable[[Ran], Awaitable[Any]], subtests: pytest.Subtests
) -> None:
    """At once, in single steps, and after many crashes: the same state after the same steps."""
    for name, ran in (await all_shapes(db, way)).items():
        with subtests.test(name):
            await compare(SHAPES[name], ran)
