"""Graphs that work with files, and say what ran in a log outside their workspace."""

import os
import stat
import time
from operator import add
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from wtb_ray import workspace


class State(TypedDict, total=False):
    log: str
    """A file that every node adds its name to when it runs."""
    gate: str
    """A file that `gated` nodes wait for."""
    how: str
    done: Annotated[list[str], add]
    path: str


def ran(state: State, name: str) -> None:
    with Path(state["log"]).open("a") as f:
        f.write(f"{name} {os.getpid()} {workspace().path}\n")


def names(log: Path) -> list[str]:
    """The nodes that ran, in order."""
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def places(log: Path) -> list[Path]:
    """The workspaces in which they ran."""
    return [Path(line.split()[2]) for line in log.read_text().splitlines()]


def first(state: State) -> dict[str, Any]:
    ran(state, "first")
    here = workspace()
    (here / "notes").mkdir(exist_ok=True)
    (here / "notes" / "a.txt").write_text("first\n")
    (here.output / "model.bin").write_bytes(b"\0" * 1000)
    return {"done": ["first"], "path": here.ref(here.output / "model.bin")}


def second(state: State) -> dict[str, Any]:
    ran(state, "second")
    here = workspace()
    with (here / "notes" / "a.txt").open("a") as f:
        f.write("second\n")
    (here / "notes" / "b.txt").write_text("b\n")
    assert here.resolve(state["path"]).stat().st_size == 1000
    match state.get("how"):
        case "socket":
            os.mknod(here / "notes" / "s", stat.S_IFSOCK)  # its path may be too long to bind
        case "absolute":
            return {"done": ["second"], "path": str(here / "notes" / "a.txt")}
        case "fail":
            raise ValueError("no")
    return {"done": ["second"]}


def third(state: State) -> dict[str, Any]:
    ran(state, "third")
    text = (workspace() / "notes" / "a.txt").read_text()
    return {"done": ["third", text]}


def line() -> StateGraph[Any, Any, Any, Any]:
    """first, second, third."""
    builder = StateGraph(State)
    for node in (first, second, third):
        builder.add_node(node.__name__, node)
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")
    builder.add_edge("second", "third")
    builder.add_edge("third", END)
    return builder


def quick(state: State) -> dict[str, Any]:
    ran(state, "quick")
    with (workspace() / "quick.txt").open("a") as f:
        f.write("quick\n")
    return {"done": ["quick"]}


def gated(state: State) -> dict[str, Any]:
    """Leaves a half-written file and waits for the gate."""
    ran(state, "gated")
    (workspace() / "half.txt").write_text("half")
    gate, patience = Path(state["gate"]), time.monotonic() + 60
    while not gate.exists() and time.monotonic() < patience:
        time.sleep(0.02)
    (workspace() / "half.txt").write_text("whole")
    return {"done": ["gated"]}


def asking(state: State) -> dict[str, Any]:
    ran(state, "asking")
    (workspace() / "asked.txt").write_text("asked")
    return {"done": [str(interrupt({"question": "go on?"}))]}


def last(state: State) -> dict[str, Any]:
    ran(state, "last")
    here = workspace()
    return {"done": sorted(p.name for p in here.path.iterdir() if p.is_file())}


def _beside(other: Any) -> StateGraph[Any, Any, Any, Any]:
    builder = StateGraph(State)
    for node in (quick, other, last):
        builder.add_node(node.__name__, node)
    for name in ("quick", other.__name__):
        builder.add_edge(START, name)
        builder.add_edge(name, "last")
    builder.add_edge("last", END)
    return builder


def parallel() -> StateGraph[Any, Any, Any, Any]:
    """quick beside gated, then last."""
    return _beside(gated)


def question() -> StateGraph[Any, Any, Any, Any]:
    """quick beside asking, then last."""
    return _beside(asking)
