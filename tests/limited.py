"""Graphs whose nodes wait for limits, are answered that others are overloaded, or take too long."""

import asyncio
import time
from collections import Counter
from operator import add
from typing import Annotated, Any

from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from typing_extensions import TypedDict

import wtb_ray

RAN: Counter[str] = Counter()
"""How often nodes ran, by `key:node`."""


class State(TypedDict, total=False):
    key: str
    how: str
    seconds: float
    said: Annotated[list[str], add]


class Overloaded(Exception):
    """As the client of a model has it."""

    status_code = 429

    def __init__(self, after: str | None = None) -> None:
        super().__init__("slow down")
        self.headers = {} if after is None else {"Retry-After": after}


class Unportable(Exception):
    """It cannot leave its process."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} and {other}")


async def call(state: State) -> State:
    """Does as the state says."""
    key = f"{state.get('key')}:call"
    RAN[key] += 1
    match state.get("how"):
        case "busy":
            raise Overloaded
        case "busy_twice" if RAN[key] <= 2:
            raise Overloaded
        case "odd_twice" if RAN[key] <= 2:
            raise Unportable("this", "that") from Overloaded()
        case "timeout":
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        case "wrong":
            raise ValueError("the user's own")
        case "hang":
            await asyncio.sleep(600)
        case "gather":
            async with wtb_ray.limit("api"):
                pass
    return {"said": ["called"]}


def sync_call(state: State) -> State:
    key = f"{state.get('key')}:sync_call"
    RAN[key] += 1
    time.sleep(state.get("seconds", 0) if RAN[key] == 1 else 0)
    return {"said": ["called in a thread"]}


async def beside(state: State) -> State:
    RAN[f"{state.get('key')}:beside"] += 1
    return {"said": ["beside"]}


async def waits(state: State) -> State:
    async with wtb_ray.limit("api", tokens=10):
        return {"said": ["waited"]}


def waits_in_a_thread(state: State) -> State:
    with wtb_ray.limit("api", tokens=10):
        return {"said": ["waited in a thread"]}


async def works(state: State) -> State:
    await asyncio.sleep(state.get("seconds", 0))
    return {"said": ["worked"]}


async def asks_wrongly(state: State) -> State:
    with wtb_ray.limit("api"):
        return {}


async def asks_too_much(state: State) -> State:
    async with wtb_ray.limit("api", tokens=1e6):
        return {}


def _of(*nodes: Any) -> Any:
    """All of these side by side."""
    builder: Any = StateGraph(State)
    for node in nodes:
        builder.add_node(node.__name__, node)
        builder.add_edge(START, node.__name__)
    return builder


def graph() -> Any:
    """`call` after a step in which something else has run."""
    builder: Any = StateGraph(State)
    builder.add_node("beside", beside)
    builder.add_node("call", call)
    builder.add_edge(START, "beside")
    builder.add_edge("beside", "call")
    return builder


def sync_graph() -> Any:
    return _of(sync_call)


def waiting() -> Any:
    return _of(waits)


def waiting_threads() -> Any:
    return _of(waits_in_a_thread)


def pair() -> Any:
    return _of(waits, works)


def wrong() -> Any:
    return _of(asks_wrongly)


def greedy() -> Any:
    return _of(asks_too_much)


def nested() -> Any:
    builder: Any = StateGraph(State)
    builder.add_node("inner", graph().compile())
    builder.add_edge(START, "inner")
    return builder


def asking() -> StateGraph[State]:
    """Asks and waits for an answer."""

    async def ask(state: State) -> State:
        return {"said": [str(interrupt("may I?"))]}

    built = StateGraph(State)
    built.add_node("ask", ask)
    built.add_edge(START, "ask")
    return built
