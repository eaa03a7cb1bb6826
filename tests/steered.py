"""A small graph whose nodes tell who ran, one that asks, and others that it can be swapped with."""

import asyncio
import operator
from typing import Annotated, Any

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from typing_extensions import TypedDict

import wtb_ray

GATES: dict[str, asyncio.Event] = {}
"""Nodes of executions with this `gate` wait at `second` until it is set."""
SCHEMA = {
    "type": "object",
    "required": ["approved"],
    "properties": {"approved": {"type": "boolean"}, "note": {"type": "string"}},
}


class State(TypedDict, total=False):
    x: int
    done: Annotated[list[str], operator.add]
    gate: str
    fails: bool
    said: Any


async def first(state: State) -> State:
    return {"done": ["first"]}


async def second(state: State) -> State:
    if state.get("gate"):
        await GATES[state["gate"]].wait()
    return {"done": [f"second{wtb_ray.params().get('mark', '')}"], "x": state.get("x", 0) + 1}


async def loud(state: State) -> State:
    return {"done": ["SECOND"]}


async def third(state: State) -> State:
    if state.get("fails"):
        raise ValueError("no luck")
    return {"done": ["third"]}


async def ask(state: State) -> State:
    return {"said": interrupt({"question": "go on?", "schema": SCHEMA}), "done": ["ask"]}


def _line(**nodes: Any) -> StateGraph[State]:
    builder = StateGraph(State)
    names = list(nodes)
    for name, node in nodes.items():
        builder.add_node(name, node)
    for one, other in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(one, other)
    return builder


def line() -> StateGraph[State]:
    return _line(first=first, second=second, third=third)


def asking() -> StateGraph[State]:
    return _line(first=first, ask=ask, third=third)


def short() -> StateGraph[State]:
    """Without `second`."""
    return _line(first=first, third=third)


class Narrow(TypedDict, total=False):
    done: Annotated[list[str], operator.add]


async def quiet(state: Narrow) -> Narrow:
    return {"done": ["quiet"]}


def narrow() -> StateGraph[Narrow]:
    """The same nodes, without the channel `x`."""
    builder = StateGraph(Narrow)
    for name in ("first", "second", "third"):
        builder.add_node(name, quiet)
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")
    builder.add_edge("second", "third")
    return builder
