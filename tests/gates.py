"""A graph whose one node says that it has started and waits until it is let go."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypedDict

from langgraph.graph import START, StateGraph

STARTED: list[int] = []
"""The inputs of nodes that have started, in that order."""
LET_GO: set[int] = set()
ALL: asyncio.Event = asyncio.Event()
"""Set: whoever waits goes on."""
DEEDS: dict[int, Callable[[], Awaitable[None]]] = {}
"""What nodes do first, by their input."""
HOARD: dict[int, bytearray] = {}
"""Memory that nodes hold, by their input."""


class State(TypedDict, total=False):
    x: int
    mib: int
    y: int


async def wait(state: State) -> State:
    x = state["x"]
    STARTED.append(x)
    if x in DEEDS:
        await DEEDS[x]()
    if state.get("mib"):
        HOARD[x] = bytearray(b"1") * (state["mib"] << 20)
    while x not in LET_GO and not ALL.is_set():
        await asyncio.sleep(0.02)
    HOARD.pop(x, None)
    return {"y": x * 2}


async def wait_for_all(state: State) -> State:
    """Costs nothing while it waits."""
    await ALL.wait()
    return {"y": state["x"] * 2}


def graph() -> StateGraph[State]:
    return StateGraph(State).add_node("wait", wait).add_edge(START, "wait")


def crowded() -> StateGraph[State]:
    return StateGraph(State).add_node("wait", wait_for_all).add_edge(START, "wait")


def reset() -> None:
    STARTED.clear()
    LET_GO.clear()
    HOARD.clear()
    DEEDS.clear()
    ALL.clear()
