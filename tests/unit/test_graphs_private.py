"""Contracts with LangGraph: one test for each name of it that is private and that we use.

When one fails after an upgrade, this says what the name has to do for us.
"""

import dataclasses
import inspect
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph._internal._constants import CONFIG_KEY_RESUMING as RESUMING
from langgraph._internal._runnable import RunnableCallable
from langgraph._internal._serde import build_serde_allowlist
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphDrained
from langgraph.graph import StateGraph
from langgraph.graph._branch import BranchSpec
from langgraph.pregel import Pregel
from langgraph.pregel._algo import prepare_next_tasks
from langgraph.pregel._checkpoint import channels_from_checkpoint
from langgraph.pregel._io import read_channels
from langgraph.pregel._retry import arun_with_retry, run_with_retry
from langgraph.pregel._task_status import read_task_statuses
from langgraph.runtime import RunControl

from tests import shapes, variants
from wtb_ray import entries, faults
from wtb_ray.running import _Limit

CONFIG: RunnableConfig = {"configurable": {"thread_id": "t"}}


@pytest.mark.parametrize(
    "name", ["linear", "parallel", "send", "command_goto", "subgraph", "cycle"]
)
async def test_prepare_next_tasks_gives_what_get_state_calls_next(name: str) -> None:
    shape = shapes.SHAPES[name]
    graph = shape.factory().compile(checkpointer=InMemorySaver())
    await graph.ainvoke(shape.input, CONFIG)
    async for snapshot in graph.aget_state_history(CONFIG):
        saver: Any = graph.checkpointer
        found = await saver.aget_tuple(snapshot.config)
        channels, managed = channels_from_checkpoint(graph.channels, found.checkpoint)
        step = found.metadata["step"] + 1
        tasks = prepare_next_tasks(
            found.checkpoint,
            [],
            graph.nodes,
            channels,
            managed,
            found.config,
            step,
            step + 2,
            for_execution=False,
            trigger_to_nodes=graph.trigger_to_nodes,
            updated_channels=set(found.checkpoint.get("updated_channels") or ()) or None,
        )
        assert tuple(task.name for task in tasks.values()) == snapshot.next
        assert {task.id for task in tasks.values()} == {task.id for task in snapshot.tasks}
        if step > 1:
            assert read_channels(channels, graph.stream_channels_asis) == snapshot.values


async def test_read_task_statuses_tells_finished_tasks_from_those_that_ask() -> None:
    graph = variants.asking().compile(checkpointer=InMemorySaver())
    await graph.ainvoke({"query": "q", "said": []}, CONFIG)
    saver: Any = graph.checkpointer
    found = await saver.aget_tuple(CONFIG)
    statuses = read_task_statuses(found.pending_writes)
    asked = [i for s in statuses.values() for i in s.pending_interrupts]
    assert sorted(str(i.value) for i in asked) == ["second", "{'question': 'q'}"]
    assert sum(status.finished for status in statuses.values()) == 1


async def _raised(graph: Any, given: Any) -> BaseException:
    try:
        await graph.ainvoke(given)
    except Exception as e:  # noqa: BLE001 - it is what is looked at
        return e
    raise AssertionError("it did not raise")


@pytest.mark.parametrize("name", ["failing", "failing_inside"])
async def test_a_task_s_frame_knows_its_task_and_its_attempt(name: str) -> None:
    source: Any = shapes if name == "failing" else variants
    error = await _raised(getattr(source, name)().compile(), {"trail": ["in"], "said": []})
    frames = [f for f in faults._frames(error) if f.f_code in faults.TASK]
    assert frames, "no frame of arun_with_retry or run_with_retry is left in the traceback"
    for frame in frames:
        assert frame.f_locals["task"].name
        assert frame.f_locals["task"].id
        assert faults._attempt(frame) >= 1


def test_tasks_run_in_these_functions() -> None:
    for run in (arun_with_retry, run_with_retry):
        assert {"task", "config"} <= set(run.__code__.co_varnames)


async def test_a_router_runs_in_these_methods() -> None:
    assert inspect.iscoroutinefunction(BranchSpec._aroute)
    error = await _raised(variants.bad_router().compile(), {"query": "q", "said": []})
    assert any(frame.f_code in faults.ROUTER for frame in faults._frames(error))


async def test_the_loop_of_a_subgraph_runs_in_these_methods() -> None:
    error = await _raised(variants.endless_inside().compile(), {"said": []})
    loops = [f for f in faults._frames(error) if f.f_code in faults.LOOP]
    assert len(loops) == 2
    assert inspect.isasyncgenfunction(Pregel.astream)


async def test_a_drain_stops_before_the_next_step() -> None:
    control = RunControl()
    control.request_drain("why")
    assert control.drain_reason == "why"
    graph = shapes.linear().compile(checkpointer=InMemorySaver())
    with pytest.raises(GraphDrained):
        await graph.ainvoke(shapes.TRAIL, CONFIG, control=control)


def test_a_runnable_callable_holds_its_function() -> None:
    def sync(state: Any) -> None: ...

    async def coroutine(state: Any) -> None: ...

    builder = StateGraph(shapes.Trail).add_node("s", sync).add_node("c", coroutine)
    s, c = builder.nodes["s"].runnable, builder.nodes["c"].runnable
    assert isinstance(s, RunnableCallable)
    assert isinstance(c, RunnableCallable)
    assert (s.func, c.func, c.afunc) == (sync, None, coroutine)
    assert s.kwargs == {}


def test_a_node_s_spec_is_a_dataclass_with_these_fields() -> None:
    spec = shapes.linear().nodes["a"]
    assert {field.name for field in dataclasses.fields(spec)} == {
        "runnable",
        "metadata",
        "input_schema",
        "retry_policy",
        "cache_policy",
        "is_error_handler",
        "error_handler_node",
        "ends",
        "defer",
        "timeout",
        "trace_policy",
    }


def test_a_builder_is_changed_by_compile_and_add_node_in_these_attributes_only() -> None:
    builder = shapes.linear()
    assert set(vars(builder)) == {
        "nodes",
        "edges",
        "branches",
        "schemas",
        "channels",
        "managed",
        "compiled",
        "waiting_edges",
        "state_schema",
        "context_schema",
        "input_schema",
        "output_schema",
        "_node_defaults",
    }


def test_the_default_error_handler_is_a_node_of_this_name() -> None:
    assert entries.DEFAULT_HANDLER in variants.defaults().builder.nodes


def test_a_compiled_graph_has_these_options() -> None:
    graph = variants.stopping
    taken = ("checkpointer", "cache", "store", "debug", "name", "stream_transformers")
    for name in (*taken, *entries.KEPT, "interrupt_before_nodes", "interrupt_after_nodes"):
        assert hasattr(graph, name), name


def test_the_allowlist_names_classes_by_module_and_name() -> None:
    found = build_serde_allowlist(schemas=[shapes.Model], channels={})
    assert ("tests.shapes", "Document") in found


async def test_the_last_step_is_computed_as_step_plus_limit_plus_one() -> None:
    """So a limit can go on where the head stands, for the root graph alone."""
    whole = await shapes.remaining_steps().compile().ainvoke({"left": []}, {"recursion_limit": 20})
    graph = shapes.remaining_steps().compile(checkpointer=InMemorySaver(), interrupt_after=["read"])
    await graph.ainvoke({"left": []}, {**CONFIG, "recursion_limit": 20})
    for _ in whole["left"]:
        pieced = await graph.ainvoke(None, {**CONFIG, "recursion_limit": _Limit(20)})
    assert pieced["left"] == whole["left"]


async def test_a_subgraph_is_not_resumed_when_the_config_says_so() -> None:
    assert RESUMING == "__pregel_resuming"
    graph = variants.remembering().compile(checkpointer=InMemorySaver(), interrupt_after=["pause"])
    await graph.ainvoke({"query": "q", "said": []}, CONFIG)
    fresh: RunnableConfig = {"configurable": {"thread_id": "t", RESUMING: False}}
    for _ in range(2):
        values = await graph.ainvoke(None, fresh)
    assert values["said"] == ["seen 1", "seen 2", "seen 3"]
