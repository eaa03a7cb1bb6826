"""Graphs whose nodes work with files, for the tests of workspaces."""

import asyncio
import contextvars
import operator
import threading
import time
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.graph import START, StateGraph

import wtb_ray


class State(TypedDict, total=False):
    name: str
    refs: Annotated[list[str], operator.add]
    seen: list[str]
    where: Any


def _write(node: str, name: str) -> dict[str, Any]:
    path = wtb_ray.workspace() / f"{node}.txt"
    if path.exists():
        raise FileExistsError(f"{path} is somebody else's")
    path.write_text(name)
    return {"refs": [wtb_ray.workspace().ref(path)]}


def sync(state: State) -> dict[str, Any]:
    time.sleep(0.002)
    return _write("sync", state["name"])


async def asynchronous(state: State) -> dict[str, Any]:
    await asyncio.sleep(0.002)
    return _write("async", state["name"])


def threaded(state: State) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    run = contextvars.copy_context().run
    thread = threading.Thread(
        target=run, args=(lambda: found.append(_write("thread", state["name"])),)
    )
    thread.start()
    thread.join()
    return found[0]


async def gather(state: State) -> dict[str, Any]:
    workspace = wtb_ray.workspace()
    wrong = [ref for ref in state["refs"] if workspace.resolve(ref).read_text() != state["name"]]
    if wrong:
        raise AssertionError(f"{workspace} has others' files {wrong}")
    return {"seen": sorted(p.name for p in workspace.path.iterdir() if p.is_file())}


def files() -> Any:
    """A sync, an async and a threaded writer at once, then a reader of what they refer to."""
    graph = StateGraph(State)
    for writer in (sync, asynchronous, threaded):
        graph.add_node(writer.__name__, writer)
        graph.add_edge(START, writer.__name__)
    graph.add_node(gather)
    graph.add_edge(["sync", "asynchronous", "threaded"], "gather")
    return graph


def absolute(state: State) -> dict[str, Any]:
    path = wtb_ray.workspace() / "model.bin"
    shapes = {
        "text": str(path),
        "path": path,
        "nested": {"artefacts": [{"model": str(path)}]},
        "root": str(wtb_ray.workspace()),
    }
    return {"where": shapes[state["name"]]}


def unstorable() -> Any:
    graph = StateGraph(State)
    graph.add_node(absolute)
    graph.add_edge(START, "absolute")
    return graph


def plain(state: State) -> dict[str, Any]:
    Path("plain.txt").write_text(state["name"])
    return {"seen": [str(wtb_ray.workspace().ref("plain.txt"))]}


def unaware() -> Any:
    """A node that knows nothing of workspaces and writes where it is."""
    graph = StateGraph(State)
    graph.add_node(plain)
    graph.add_edge(START, "plain")
    return graph


def careless(state: State) -> dict[str, Any]:
    return {"seen": [state["name"]]}


def fileless() -> Any:
    graph = StateGraph(State)
    graph.add_node(careless)
    graph.add_edge(START, "careless")
    return graph
