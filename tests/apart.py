"""Graphs whose nodes run in processes of their own, for tests of what crosses and what does not."""

import asyncio
import os
import threading
import time
from operator import add
from typing import Annotated, Any

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.managed import RemainingSteps
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore
from langgraph.types import Command, RetryPolicy, Send, interrupt
from typing_extensions import TypedDict

import wtb_ray


class State(TypedDict, total=False):
    x: int
    how: str
    log: str
    pids: Annotated[list[str], add]
    said: Annotated[list[Any], add]


class Parcel(TypedDict, total=False):
    number: int


class Odd(Exception):
    """It cannot leave its process."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} and {other}")


def trace(state: State, name: str) -> None:
    with open(state["log"], "a") as log:
        log.write(f"{name} {os.getpid()} {threading.get_ident()}\n")


def local(state: State) -> State:
    wtb_ray.usage(tokens=2)
    return {"pids": [f"local {os.getpid()}"]}


async def remote(state: State, config: RunnableConfig, runtime: Runtime[Any]) -> Any:
    """Does as the state says, and says what it sees."""
    raised(state)
    match state.get("how"):
        case "ask":
            first = interrupt({"ask": "first"})
            second = interrupt({"ask": "second"})
            return {"said": [first, second]}
        case "goto":
            return Command(update={"said": ["gone"]}, goto="far")
        case "send":
            return Command(goto=[Send("parcel", {"number": n}) for n in (1, 2, 3)])
        case "files":
            place = wtb_ray.workspace()
            (place / "made.txt").write_text(f"by {os.getpid()}")
            return {"said": [place.ref("made.txt")]}
        case "unpicklable":
            return {"said": [threading.Lock()]}
        case "hang":
            trace(state, "hang")
            await asyncio.sleep(60)
    runtime.stream_writer({"seen": state["x"]})
    wtb_ray.usage(tokens=40, cost=0.5)
    await asyncio.to_thread(wtb_ray.usage, tokens=1)
    return {
        "pids": [f"remote {os.getpid()}"],
        "said": [
            wtb_ray.params(),
            config["metadata"]["langgraph_node"],
            runtime.execution_info.node_attempt if runtime.execution_info else None,
        ],
    }


def raised(state: State) -> None:
    match state.get("how"):
        case "raise":
            raise KeyError("nothing there")
        case "odd":
            raise Odd("this", "that")
        case "exit":
            raise SystemExit(3)


def blocking(state: State) -> State:
    """Sync, and no cancelling ends it."""
    trace(state, "blocking")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not os.path.exists(f"{state['log']}.open"):
        time.sleep(0.02)
    trace(state, "unblocked")
    return {"said": ["unblocked"]}


def flaky(state: State, runtime: Runtime[Any]) -> State:
    assert runtime.execution_info is not None
    wtb_ray.usage(tries=1)
    if runtime.execution_info.node_attempt < 3:
        raise ConnectionError("not yet")
    return {"said": [runtime.execution_info.node_attempt]}


def parcel(parcel: Parcel) -> State:
    wtb_ray.usage(parcels=parcel["number"])
    return {"said": [parcel["number"] * 10], "pids": [f"parcel {os.getpid()}"]}


def far(state: State) -> State:
    return {"said": ["far"]}


def graph() -> Any:
    builder: Any = StateGraph(State)
    builder.add_node("local", local)
    builder.add_node("remote", remote, destinations=("far", "parcel", END))
    builder.add_node("parcel", parcel)
    builder.add_node("far", far)
    builder.add_edge(START, "local")
    builder.add_edge("local", "remote")
    return builder


def slow() -> Any:
    builder: Any = StateGraph(State)
    builder.add_node("blocking", blocking)
    builder.add_edge(START, "blocking")
    return builder


def tried() -> Any:
    builder: Any = StateGraph(State)
    policy = RetryPolicy(max_attempts=3, initial_interval=0.01)
    builder.add_node("flaky", flaky, retry_policy=policy)
    builder.add_edge(START, "flaky")
    return builder


def timed() -> Any:
    builder: Any = StateGraph(State)
    builder.add_node("remote", remote, timeout=0.5)
    builder.add_edge(START, "remote")
    return builder


class Managed(TypedDict, total=False):
    x: int
    left: RemainingSteps


def counting(state: Managed) -> Managed:
    return {"x": 1}


def storing(state: State, *, store: BaseStore) -> State:
    return {"x": 1}


def outer() -> Any:
    inner: Any = StateGraph(State)
    inner.add_node("remote", remote)
    inner.add_edge(START, "remote")
    builder: Any = StateGraph(State)
    builder.add_node("sub", inner.compile())
    builder.add_edge(START, "sub")
    return builder


def managed() -> Any:
    builder: Any = StateGraph(Managed)
    builder.add_node("n", counting)
    builder.add_edge(START, "n")
    return builder


def stored() -> Any:
    builder: Any = StateGraph(State)
    builder.add_node("n", storing)
    builder.add_edge(START, "n")
    return builder
