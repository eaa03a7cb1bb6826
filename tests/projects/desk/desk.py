"""A project that works with files: it counts the words of its input into a report, step by step."""

import os
import time
from pathlib import Path
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph

from wtb_ray import workspace


class State(TypedDict, total=False):
    trace: str
    seconds: float
    report: str
    place: str
    text: str


def _told(state: State, name: str) -> None:
    with Path(state["trace"]).open("a") as f:
        f.write(f"{name} {os.getpid()} {workspace().path}\n")


def collect(state: State) -> dict[str, Any]:
    _told(state, "collect")
    here = workspace()
    words = (here.input / "data" / "words.txt").read_text().split()
    report = here.output / "report.txt"
    report.write_text("".join(f"{word}\n" for word in words))
    return {"report": here.ref(report), "place": "inside" if _is_here() else "elsewhere"}


def _is_here() -> bool:
    return Path.cwd().samefile(workspace().path)


def enlarge(state: State) -> dict[str, Any]:
    """Appends and waits, so that it can be killed with half of its work done."""
    _told(state, "enlarge")
    report = workspace().resolve(state["report"])
    with report.open("a") as f:
        f.write("half\n")
    time.sleep(state.get("seconds", 0))
    with report.open("a") as f:
        f.write("whole\n")
    return {}


def close(state: State) -> dict[str, Any]:
    _told(state, "close")
    return {"text": workspace().resolve(state["report"]).read_text()}


def graph() -> StateGraph[Any, Any, Any, Any]:
    builder = StateGraph(State)
    for node in (collect, enlarge, close):
        builder.add_node(node.__name__, node)
    builder.add_edge(START, "collect")
    builder.add_edge("collect", "enlarge")
    builder.add_edge("enlarge", "close")
    builder.add_edge("close", END)
    return builder
