"""A graph that holds something, and tells whether it still does."""

import weakref
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph

HELD: "list[weakref.ref[Ballast]]" = []


class State(TypedDict, total=False):
    done: bool


class Ballast:
    """What a graph may hold: a model, an index."""

    def __init__(self) -> None:
        self.data = bytearray(1000)


def line() -> StateGraph[Any, Any, Any, Any]:
    """before, then after; both hold the ballast."""
    ballast = Ballast()
    HELD.append(weakref.ref(ballast))

    def before(state: State) -> State:
        return {"done": not ballast.data}

    def after(state: State) -> State:
        return {"done": bool(ballast.data)}

    builder = StateGraph(State)
    builder.add_node("before", before)
    builder.add_node("after", after)
    builder.add_edge(START, "before")
    builder.add_edge("before", "after")
    builder.add_edge("after", END)
    return builder
