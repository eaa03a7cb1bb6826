"""The graphs that are measured; this folder is also the bundle that the whole bench runs."""

import asyncio
import itertools
import json
import operator
import time
from pathlib import Path
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph

from wtb_ray import workspace

NODES = 5
WAIT_S = 1.0
THINK_S = 0.2


class State(TypedDict, total=False):
    x: int


async def nothing(state: State) -> State:
    return {"x": state["x"]}


async def wait(state: State) -> State:
    await asyncio.sleep(WAIT_S)
    return {"x": state["x"]}


async def think(state: State) -> State:
    await asyncio.sleep(THINK_S)
    return {"x": state["x"]}


def thinking() -> StateGraph[State]:
    """Five async nodes that wait for 200 ms each."""
    return _line(think)


def five() -> StateGraph[State]:
    """Five async nodes that do nothing, one after the other."""
    return _line(nothing)


def waiting() -> StateGraph[State]:
    """Five async nodes that wait for a second each, as for a model's answer."""
    return _line(wait)


class Parked(TypedDict, total=False):
    place: str
    """A directory in which the nodes say when they are where."""
    files: int


async def writes(state: Parked) -> Parked:
    """Writes files and waits to be let on."""
    for number in range(state["files"]):
        (workspace() / f"{number}.txt").write_text(f"{number}\n" * 100)
    _note(state, "wrote")
    while not (Path(state["place"]) / "gate").exists():  # noqa: ASYNC110 - it is a file
        await asyncio.sleep(0.005)
    _note(state, "left")
    return {}


async def reads(state: Parked) -> Parked:
    """Says that it is there, and that all files are."""
    _note(state, "entered")
    found = sum(1 for path in workspace().path.iterdir() if path.suffix == ".txt")
    if found != state["files"]:
        raise AssertionError(f"{found} files")
    return {}


def _note(state: Parked, what: str) -> None:
    partial = Path(state["place"]) / f"{what}.partial"
    partial.write_text(json.dumps(time.time()))
    partial.rename(partial.with_suffix(""))


def parked() -> StateGraph[Parked]:
    """A node that leaves files behind, and one that finds them."""
    builder = StateGraph(Parked)
    builder.add_node("writes", writes)
    builder.add_node("reads", reads)
    builder.add_edge(START, "writes")
    builder.add_edge("writes", "reads")
    builder.add_edge("reads", END)
    return builder


class Chat(TypedDict, total=False):
    texts: Annotated[list[str], operator.add]


async def says(state: Chat) -> Chat:
    await asyncio.sleep(0.02)
    return {"texts": [f"{len(state['texts'])}: {'x' * 200}"]}


def fifty() -> StateGraph[Chat]:
    """Fifty nodes, each with a word to say."""
    builder = StateGraph(Chat)
    names = [f"n{i}" for i in range(50)]
    for name in names:
        builder.add_node(name, says)
    for source, target in itertools.pairwise([START, *names, END]):
        builder.add_edge(source, target)
    return builder


def _line(node) -> StateGraph[State]:  # type: ignore[no-untyped-def]
    builder = StateGraph(State)
    names = [f"n{i}" for i in range(NODES)]
    for name in names:
        builder.add_node(name, node)
    for source, target in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(source, target)
    return builder
