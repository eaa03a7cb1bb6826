"""A graph that holds memory, writes files and waits, so that a pause has something to give back."""

import os
import time
from pathlib import Path
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph

BALLAST = 128 * 1024 * 1024


class State(TypedDict, total=False):
    gate: str
    log: str
    name: str
    files: dict[str, str]


def graph() -> StateGraph[Any, Any, Any, Any]:
    """write, then read, in the current directory; both hold what was made with the graph."""
    ballast = bytearray(os.urandom(1)) * BALLAST

    def write(state: State) -> State:
        Path("output/text.txt").write_text(state["name"])
        _note(state, "write")
        while not Path(state["gate"]).exists():
            time.sleep(0.02)
        Path("late.txt").write_text("late")
        assert len(ballast) == BALLAST
        return {}

    def read(state: State) -> State:
        _note(state, "read")
        assert len(ballast) == BALLAST
        return {"files": {p: Path(p).read_text() for p in ("output/text.txt", "late.txt")}}

    builder = StateGraph(State)
    builder.add_node("write", write)
    builder.add_node("read", read)
    builder.add_edge(START, "write")
    builder.add_edge("write", "read")
    builder.add_edge("read", END)
    return builder


def _note(state: State, node: str) -> None:
    with Path(state["log"]).open("a") as log:
        log.write(f"{node} {os.getpid()} {Path.cwd()}\n")
