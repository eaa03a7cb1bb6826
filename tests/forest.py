"""Graphs for tests of the execution tree; they say what ran, with which variant, where it ran.

What they say goes to this module, which works because these tests run runners as objects.
"""

import asyncio
import itertools
import operator
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

from langgraph.cache.memory import InMemoryCache
from langgraph.graph import END, START, StateGraph
from langgraph.managed import RemainingSteps
from langgraph.types import CachePolicy, Command, Send, interrupt

import wtb_ray
from wtb_ray.model import VariantSpec

Builder = StateGraph[Any, Any, Any, Any]

RAN: defaultdict[str, Counter[str]] = defaultdict(Counter)
"""How often each node ran as which variant, by the key in the state: `node` or `node!mark`."""


HELD: set[tuple[str, str]] = set()
"""Nodes that wait when they have said that they ran, by key and name, as long as they are in here."""


@dataclass
class Fact:
    """Stands in a list that says nothing of what is in it."""

    name: str
    weight: int


class State(TypedDict, total=False):
    key: str
    way: str
    trail: Annotated[list[str], operator.add]
    facts: list[Any]
    left: list[int]


class Counting(State):
    remaining: RemainingSteps


class Memory(TypedDict, total=False):
    left: list[int]
    calls: Annotated[int, operator.add]


def ran(state: Any, name: str) -> str:
    told: str = name + wtb_ray.params().get("mark", "")
    RAN[state["key"]][told] += 1
    return told


def node(name: str) -> Any:
    async def run(state: State) -> dict[str, Any]:
        told = ran(state, name)
        while (state["key"], name) in HELD:
            await asyncio.sleep(0.005)
        return {"trail": [told]}

    return run


def marked(*names: str) -> dict[str, dict[str, VariantSpec]]:
    """Two variants of each of these nodes."""
    found = {mark: VariantSpec(params={"mark": f"!{mark}"}) for mark in ("a", "b")}
    return dict.fromkeys(names, found)


def _line(*names: str, schema: Any = State) -> Builder:
    graph: Builder = StateGraph(schema)
    for name in names:
        graph.add_node(name, node(name))
    graph.add_edge(START, names[0])
    for before, after in itertools.pairwise(names):
        graph.add_edge(before, after)
    graph.add_edge(names[-1], END)
    return graph


def line() -> Builder:
    return _line("one", "two", "three", "four", "five")


def routed() -> Builder:
    """`rare` comes only where the way is `rare`."""
    graph = _line("one", "two")
    graph.add_node("rare", node("rare"))
    graph.add_node("last", node("last"))
    graph.add_conditional_edges("one", lambda state: state.get("way", "last"), ["rare", "last"])
    graph.add_edge(["two"], "last")
    graph.add_edge("rare", "last")
    return graph


def pair() -> Builder:
    """`left` and `right` run in one super-step, `beside` with them."""
    graph = _line("first")
    for name in ("left", "right", "beside"):
        graph.add_node(name, node(name))
        graph.add_edge("first", name)
    graph.add_node("join", node("join"))
    graph.add_edge(["left", "right", "beside"], "join")
    return graph


def sent() -> Builder:
    """`decide` goes to `there` by a Command, which sends twice to `worker`."""
    graph: Builder = StateGraph(State)

    async def decide(state: State) -> Command[Any]:
        return Command(update={"trail": [ran(state, "decide")]}, goto="there")

    def plan(state: State) -> list[Send]:
        return [Send("worker", {"key": state["key"]}) for _ in range(2)]

    graph.add_node("decide", decide, destinations=("there",))
    graph.add_node("there", node("there"))
    graph.add_node("worker", node("worker"))
    graph.add_edge(START, "decide")
    graph.add_conditional_edges("there", plan, ["worker"])
    return graph


def entered() -> Builder:
    """The very first node varies, and is chosen by a condition."""
    graph: Builder = StateGraph(State)
    for name in ("early", "late"):
        graph.add_node(name, node(name))
        graph.add_edge(name, END)
    graph.add_conditional_edges(START, lambda state: state.get("way", "early"), ["early", "late"])
    return graph


def cached() -> Any:
    """`slow` is cached by its input."""
    graph: Builder = StateGraph(State)
    graph.add_node("slow", node("slow"), cache_policy=CachePolicy(key_func=lambda _: "same"))
    graph.add_node("last", node("last"))
    graph.add_edge(START, "slow")
    graph.add_edge("slow", "last")
    return graph.compile(cache=InMemoryCache())


def facts() -> Builder:
    """`learn` puts a dataclass into a list, `tell` reads it after the variants have parted."""
    graph: Builder = StateGraph(State)

    async def learn(state: State) -> dict[str, Any]:
        return {"trail": [ran(state, "learn")], "facts": [Fact("moon", 7), "plain"]}

    async def tell(state: State) -> dict[str, Any]:
        fact = state["facts"][0]
        return {"trail": [f"{ran(state, 'tell')} {type(fact).__name__} {fact.name} {fact.weight}"]}

    graph.add_node("learn", learn)
    graph.add_node("tell", tell)
    graph.add_edge(START, "learn")
    graph.add_edge("learn", "tell")
    return graph


def counting() -> Builder:
    """Each node says how many steps remain."""
    graph: Builder = StateGraph(Counting)

    def reader(name: str) -> Any:
        async def run(state: Counting) -> dict[str, Any]:
            return {"trail": [f"{ran(state, name)} {state['remaining']}"]}

        return run

    names = ("one", "two", "three")
    for name in names:
        graph.add_node(name, reader(name))
    graph.add_edge(START, "one")
    graph.add_edge("one", "two")
    graph.add_edge("two", "three")
    return graph


def nested() -> Builder:
    """`outer` is a graph of `in1` and `in2`."""
    inner = _line("in1", "in2")
    graph = _line("before")
    graph.add_node("outer", inner.compile())
    graph.add_edge("before", "outer")
    return graph


def remembering() -> Builder:
    """`outer` is a graph with a memory: it says how often it was called. `between` follows, twice."""

    async def count(state: Memory) -> dict[str, Any]:
        return {"calls": 1}

    async def tell(state: Memory) -> dict[str, Any]:
        return {"left": [state["calls"]]}

    inner: Builder = StateGraph(Memory, output_schema=State)
    inner.add_sequence([count, tell])
    inner.add_edge(START, "count")
    graph: Builder = StateGraph(State)
    graph.add_node("outer", inner.compile(checkpointer=True))
    graph.add_node("between", node("between"))
    graph.add_edge(START, "outer")
    graph.add_edge("outer", "between")
    graph.add_conditional_edges(
        "between", lambda state: "outer" if len(state["trail"]) < 2 else END, ["outer", END]
    )
    return graph


def asking() -> Builder:
    """`ask` asks; what it heard stands in the trail. `after` comes next."""
    graph = _line("one")

    async def ask(state: State) -> dict[str, Any]:
        answer = interrupt("which?")
        return {"trail": [f"{ran(state, 'ask')} heard {answer}"]}

    graph.add_node("ask", ask)
    graph.add_node("after", node("after"))
    graph.add_edge("one", "ask")
    graph.add_edge("ask", "after")
    return graph


def failing() -> Builder:
    """`two` fails."""
    graph = _line("one")

    async def two(state: State) -> dict[str, Any]:
        raise ValueError(f"{ran(state, 'two')} cannot")

    graph.add_node("two", two)
    graph.add_node("three", node("three"))
    graph.add_edge("one", "two")
    graph.add_edge("two", "three")
    return graph
