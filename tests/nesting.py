"""Graphs within graphs: what their nodes did is in rows of their own."""

import asyncio
import operator
from typing import Annotated, Any

from langgraph.graph import END, START, StateGraph
from langgraph.types import Send, interrupt
from typing_extensions import TypedDict

GATES: dict[str, asyncio.Event] = {}
"""Nodes of executions with this `gate` wait at `slow` until it is set."""


class State(TypedDict, total=False):
    done: Annotated[list[str], operator.add]
    gate: str
    asks: bool
    fails: bool
    rounds: int


Builder = StateGraph[State]


def _node(name: str) -> Any:
    async def run(state: State) -> State:
        return {"done": [name]}

    return run


async def slow(state: State) -> State:
    if state.get("gate"):
        await GATES[state["gate"]].wait()
    return {"done": ["slow"]}


async def ask(state: State) -> State:
    return {"done": [interrupt("go on?")] if state.get("asks") else ["ask"]}


async def fail(state: State) -> State:
    if state.get("fails"):
        raise ValueError("deep down")
    return {"done": ["fail"]}


def _deep() -> Builder:
    builder = StateGraph(State)
    builder.add_node("slow", slow)
    builder.add_node("fail", fail)
    builder.add_edge(START, "slow")
    builder.add_edge("slow", "fail")
    return builder


def _inner() -> Builder:
    """a beside b, then both; two tasks of `sent`; a graph; a question; `never` is not reached."""
    builder = StateGraph(State)
    for name in ("a", "b", "both", "sent", "never"):
        builder.add_node(name, _node(name))
    builder.add_node("ask", ask)
    builder.add_node("deep", _deep().compile())
    builder.add_edge(START, "a")
    builder.add_edge(START, "b")
    builder.add_edge(["a", "b"], "both")
    builder.add_conditional_edges("both", lambda s: [Send("sent", s)] * 2, ["sent"])
    builder.add_edge("sent", "deep")
    builder.add_edge("deep", "ask")
    builder.add_conditional_edges("ask", lambda s: END, [END, "never"])
    return builder


def _around(inner: Any, rounds: int = 1) -> Builder:
    """before, the graph, after; then again as often as `rounds` says."""
    builder = StateGraph(State)
    builder.add_node("before", lambda s: {"rounds": s.get("rounds", 0) + 1})
    builder.add_node("outer", inner)
    builder.add_node("after", _node("after"))
    builder.add_edge(START, "before")
    builder.add_edge("before", "outer")
    builder.add_edge("outer", "after")
    builder.add_conditional_edges(
        "after", lambda s: "before" if s["rounds"] < rounds else END, ["before", END]
    )
    return builder


def graph() -> Builder:
    return _around(_inner().compile())


def again() -> Builder:
    return _around(_deep().compile(), rounds=3)


def remembering() -> Builder:
    """The inner graph keeps its state from one call to the next."""
    return _around(_deep().compile(checkpointer=True), rounds=3)


def forgetful() -> Builder:
    """The inner graph keeps no checkpoints."""
    return _around(_deep().compile(checkpointer=False))
