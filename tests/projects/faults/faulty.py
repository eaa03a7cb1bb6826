"""A graph whose nodes leave a trace on disk, and can block the loop or end their process."""

import asyncio
import os
import time
from typing import TypedDict

from langgraph.graph import START, StateGraph


class State(TypedDict, total=False):
    x: int
    trace: str
    deed: str
    seconds: float
    blocks: float
    total: int


def leave(state: State, node: str) -> None:
    """One line per node run, appended in one write."""
    with open(state["trace"], "a") as f:
        f.write(f"{state['x']} {node}\n")


async def first(state: State) -> State:
    leave(state, "first")
    await asyncio.sleep(state.get("seconds", 0.05))
    return {"total": state["x"]}


async def second(state: State) -> State:
    leave(state, "second")
    match state.get("deed"):
        case "exit":
            os._exit(3)
        case "wait":  # until somebody says so
            while not os.path.exists(f"{state['trace']}.go"):
                await asyncio.sleep(0.05)
        case "block":
            time.sleep(state["blocks"])
        case _:
            await asyncio.sleep(state.get("seconds", 0.05))
    return {"total": state["total"] + 1}


def third(state: State) -> State:
    leave(state, "third")
    time.sleep(0.02)
    return {"total": state["total"] * 2}


def graph() -> StateGraph[State]:
    builder = StateGraph(State)
    for node in (first, second, third):
        builder.add_node(node.__name__, node)
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")
    builder.add_edge("second", "third")
    return builder
