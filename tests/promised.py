"""Graphs that show what the bench promises: they say what they saw, what ran, and how many at once.

What they say goes to this module, which works because these tests run runners as objects.
"""

import asyncio
import dataclasses
import operator
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import RetryPolicy
from pydantic import BaseModel

import wtb_ray
from wtb_ray.scoring import CellOutcome, scorer

Builder = StateGraph[Any, Any, Any, Any]

RAN: Counter[str] = Counter()
"""How often a node has begun."""
GATE = asyncio.Event()
"""Nodes of `gated` go on when it is set."""
AT_ONCE = {"now": 0, "most": 0}
"""Nodes of `crowded` that run, and the most that ever did."""
MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class State(TypedDict, total=False):
    x: int
    y: int
    saw: Annotated[list[Any], operator.add]


def line_of(schema: Any, nodes: Sequence[tuple[str, Any]]) -> Builder:
    builder: Builder = StateGraph(schema)
    before: str = START
    for name, run in nodes:
        builder.add_node(name, run)
        builder.add_edge(before, name)
        before = name
    return builder


def _leaving(name: str) -> Any:
    """Says which files it finds, and leaves one that is tracked and one that is not."""

    async def run(state: State) -> State:
        RAN[name] += 1
        here = wtb_ray.workspace()
        found = sorted(path.name for path in here.path.iterdir() if path.is_file())
        (here / f"{name}.txt").write_text(f"{name} {RAN[name]}")
        (here / f"{name}.log").write_text("not tracked")
        return {"saw": [found]}

    return run


def leftovers() -> Builder:
    return line_of(State, [(name, _leaving(name)) for name in "abc"])


def gated() -> Builder:
    async def one(state: State) -> State:
        RAN["one"] += 1
        await GATE.wait()
        return {"y": state["x"]}

    async def two(state: State) -> State:
        RAN["two"] += 1
        return {"y": state["x"]}

    return line_of(State, [("one", one), ("two", two)])


def crowded() -> Builder:
    async def work(state: State) -> State:
        AT_ONCE["now"] += 1
        AT_ONCE["most"] = max(AT_ONCE.values())
        # A few take far longer than all others: nobody waits for them.
        await asyncio.sleep(1.0 if state["x"] % 100 == 0 else 0.01)
        AT_ONCE["now"] -= 1
        return {"y": state["x"]}

    return line_of(State, [("work", work)])


async def first(state: State) -> State:
    return {"y": state["x"], "saw": ["first"]}


async def flaky(state: State) -> State:
    """Another implementation of `first`: it adds one, and fails at its first attempt."""
    tried = f"flaky {state['x']}"
    RAN[tried] += 1
    if RAN[tried] == 1:
        raise OSError("not yet")
    return {"y": state["x"] + 1, "saw": ["flaky"]}


def routed() -> Builder:
    """`first` is tried twice; where it leads depends on what it wrote."""

    async def even(state: State) -> State:
        return {"saw": ["even"]}

    async def odd(state: State) -> State:
        return {"saw": ["odd"]}

    builder: Builder = StateGraph(State)
    policy = RetryPolicy(max_attempts=2, initial_interval=0.001, retry_on=OSError)
    builder.add_node("first", first, retry_policy=policy)
    builder.add_node("even", even)
    builder.add_node("odd", odd)
    builder.add_edge(START, "first")
    builder.add_conditional_edges("first", lambda s: "odd" if s["y"] % 2 else "even")
    return builder


class Grade(BaseModel):
    points: float
    at: datetime


@dataclasses.dataclass
class Place:
    row: int


class Rich(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    grade: Grade
    price: Decimal
    place: Place
    at: datetime
    saw: Annotated[list[Any], operator.add]


def keeping() -> Builder:
    """A state that no `json.dumps` takes; the second node says what it finds of it."""

    async def write(state: Rich) -> Rich:
        return {
            "messages": [HumanMessage("how much?", id="q"), AIMessage("0.10", id="a")],
            "grade": Grade(points=0.5, at=MOMENT),
            "price": Decimal("0.10"),
            "place": Place(3),
            "at": MOMENT,
        }

    async def look(state: Rich) -> Rich:
        same = (state["grade"], state["price"], state["place"], state["at"]) == (
            *(Grade(points=0.5, at=MOMENT), Decimal("0.10"), Place(3), MOMENT),
        )
        return {"saw": [same, *(type(message).__name__ for message in state["messages"])]}

    return line_of(Rich, [("write", write), ("look", look)])


@scorer(metrics=["told"])
async def told(result: CellOutcome) -> float:
    """What the final state says, whatever one might think of it."""
    return float(result.state["y"]) / 1000
