"""A small graph with variants, for tests of what lies around graphs."""

import asyncio
import threading
import time
from typing import TypedDict

from langgraph.graph import END, START, StateGraph

import wtb_ray


class State(TypedDict, total=False):
    x: int
    y: int
    done: bool


async def double(state: State) -> State:
    if state["x"] < 0:
        raise ValueError("negative input")
    return {"y": state["x"] * wtb_ray.params().get("factor", 2)}


def triple(state: State) -> State:
    return {"y": state["x"] * 3}


async def metered(state: State) -> State:
    """Says what it used, and fails for negative numbers after it has."""
    wtb_ray.usage(input_tokens=10, output_tokens=5, cost=0.5)
    return await double(state)


async def slow(state: State) -> State:
    await asyncio.sleep(0.05)
    return {"y": state["x"] * 2}


def finish(state: State) -> State:
    return {"done": True}


def graph() -> StateGraph[State]:
    builder = StateGraph(State)
    builder.add_node("double", double)
    builder.add_node("finish", finish)
    builder.add_edge(START, "double")
    builder.add_edge("double", "finish")
    builder.add_edge("finish", END)
    return builder


def slow_graph() -> StateGraph[State]:
    builder = StateGraph(State)
    builder.add_node("double", slow)
    for name in ("a", "b", "c"):
        builder.add_node(name, slow)
    builder.add_edge(START, "double")
    builder.add_edge("double", "a")
    builder.add_edge("a", "b")
    builder.add_edge("b", "c")
    return builder


async def blocker(state: State) -> State:
    time.sleep(1.8)
    return {"y": 0}


def blocking_graph() -> StateGraph[State]:
    builder = StateGraph(State)
    builder.add_node("blocker", blocker)
    builder.add_edge(START, "blocker")
    return builder


OPEN = threading.Event()


async def held(state: State) -> State:
    """Ends when `OPEN` is set; at once for odd numbers."""
    while state["x"] % 2 == 0 and not OPEN.is_set():
        await asyncio.sleep(0.02)
    return {"y": state["x"]}


def gated_graph() -> StateGraph[State]:
    return StateGraph(State).add_node("held", held).add_edge(START, "held")
