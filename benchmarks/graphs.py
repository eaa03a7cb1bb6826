"""The graphs that are measured; this folder is also the bundle that the whole bench runs."""

import asyncio
from typing import TypedDict

from langgraph.graph import END, START, StateGraph

NODES = 5
WAIT_S = 1.0


class State(TypedDict, total=False):
    x: int


async def nothing(state: State) -> State:
    return {"x": state["x"]}


async def wait(state: State) -> State:
    await asyncio.sleep(WAIT_S)
    return {"x": state["x"]}


def five() -> StateGraph[State]:
    """Five async nodes that do nothing, one after the other."""
    return _line(nothing)


def waiting() -> StateGraph[State]:
    """Five async nodes that wait for a second each, as for a model's answer."""
    return _line(wait)


def _line(node) -> StateGraph[State]:  # type: ignore[no-untyped-def]
    builder = StateGraph(State)
    names = [f"n{i}" for i in range(NODES)]
    for name in names:
        builder.add_node(name, node)
    for source, target in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(source, target)
    return builder
