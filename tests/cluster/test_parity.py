"""Every shape of graph ends as plain LangGraph ends it, through the whole bench.

One project holds all of them, as variants of its workflow, in a bundle of its own.
"""

import asyncio
import dataclasses
import importlib
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from pydantic import BaseModel

from tests.shapes import SHAPES, TRAIL, Shape
from tests.stack import Stack
from wtb_ray.model import Case
from wtb_ray.sdk import AsyncTestBench, Execution, WorkflowProject

LIMIT = 25
MODULE = "parity_shapes"
ALIKE = sorted(name for name, shape in SHAPES.items() if shape.input == TRAIL and not shape.fails)


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The shapes as a module that only its bundle, and this test, can import."""
    shutil.copy(Path(__file__).parents[1] / "shapes.py", tmp_path / f"{MODULE}.py")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module(MODULE)
    del sys.modules[MODULE]


def project(shapes: ModuleType) -> WorkflowProject:
    made = WorkflowProject("parity", shapes.linear, root=Path(shapes.__file__ or "").parent)
    for name in SHAPES:
        made.register_workflow_variant(name, getattr(shapes, name))
    return made


class Tasks(AsyncCallbackHandler):
    """Notes which nodes of the root graph ran in which super-step, retries counted once."""

    def __init__(self) -> None:
        self.seen: dict[int, dict[str, str]] = defaultdict(dict)

    async def on_chain_start(self, *_: Any, **more: Any) -> None:
        told = more.get("metadata") or {}
        namespace = told.get("langgraph_checkpoint_ns", "|")
        if "|" not in namespace:
            self.seen[told["langgraph_step"]][namespace] = told["langgraph_node"]

    def steps(self) -> list[list[str]]:
        return [sorted(self.seen[step].values()) for step in sorted(self.seen)]


@dataclasses.dataclass
class Plain:
    """What LangGraph alone makes of a shape."""

    state: dict[str, Any]
    steps: list[list[str]]
    error: Exception | None = None


async def plain(shapes: ModuleType, shape: Shape) -> Plain:
    graph = getattr(shapes, shape.name)().compile()
    tasks = Tasks()
    try:
        values = await graph.ainvoke(
            shape.input,
            {"recursion_limit": LIMIT, "callbacks": [tasks]},
            output_keys=graph.stream_channels_asis,
        )
    except ConnectionError as e:
        return Plain({}, tasks.steps()[:-1], e)
    state = values if isinstance(values, dict) else {"__root__": values}
    return Plain(shown(state), tasks.steps())


def shown(value: Any) -> Any:
    """A value of the test's process as JSON shows it."""
    match value:
        case dict():
            return {key: shown(item) for key, item in value.items()}
        case list() | tuple():
            return [shown(item) for item in value]
        case BaseModel():
            fields = value.__dict__ | (value.__pydantic_extra__ or {})
        case _ if dataclasses.is_dataclass(value):
            fields = vars(value)
        case _:
            return value
    cls = type(value)
    return {"__type__": f"{cls.__module__}.{cls.__name__}", **shown(fields)}


async def through_the_bench(bench: AsyncTestBench, shape: Shape) -> Execution:
    given = shape.input if isinstance(shape.input, dict) else {"__root__": shape.input}
    return await bench.run(
        "parity", given, {"_workflow": shape.name}, recursion_limit=LIMIT, timeout=90
    )


async def test_every_shape_ends_as_without_the_bench(
    stack: Stack, shapes: ModuleType, subtests: pytest.Subtests
) -> None:
    """Run one by one: states, steps and errors are the same."""
    async with AsyncTestBench(stack.url) as bench:
        version = await bench.register_project(project(shapes))
        assert version.spec.bundle is not None
        assert set(version.workflows) == set(SHAPES)
        executions = await asyncio.gather(*(through_the_bench(bench, s) for s in SHAPES.values()))
        checkpoints = await asyncio.gather(*(bench.get_checkpoints(e.id) for e in executions))
    for shape, execution, found in zip(SHAPES.values(), executions, checkpoints, strict=True):
        alone = await plain(shapes, shape)
        with subtests.test(shape.name):
            ran = [sorted(run.name for run in c.nodes) for c in reversed(found) if c.step > 0]
            assert ran == alone.steps
            assert execution.info.head_step == len(alone.steps)
            if alone.error is None:
                assert (execution.status, execution.error) == ("COMPLETED", None)
                assert execution.state == alone.state
                assert execution.next_nodes == []
            else:
                assert execution.status == "FAILED"
                assert execution.error is not None
                assert execution.error.code == "node_failed"
                assert execution.error.type == type(alone.error).__name__
                assert execution.error.message == str(alone.error)


async def test_shapes_in_a_batch_end_as_without_it(stack: Stack, shapes: ModuleType) -> None:
    """The shapes with one kind of input, as the rows of one matrix."""
    inputs = [TRAIL, {"trail": ["in", "side"], "count": 3}]
    async with AsyncTestBench(stack.url) as bench:
        await bench.register_project(project(shapes))
        batch = await bench.run_batch_test(
            "parity",
            [{"_workflow": name} for name in ALIKE],
            [Case(id=f"c{i}", input=given) for i, given in enumerate(inputs)],
            recursion_limit=LIMIT,
            timeout=90,
        )
        cells = await batch.results()
        states = await asyncio.gather(*(bench.get_state(c.execution_id or "") for c in cells))
    assert len(cells) == len(ALIKE) * len(inputs)
    for cell, state in zip(cells, states, strict=True):
        given = inputs[int(cell.case_id[1:])]
        alone = await plain(shapes, Shape(cell.binding["_workflow"], given))
        assert (cell.status, state.step) == ("DONE", len(alone.steps)), cell
        assert state.values == alone.state, cell
