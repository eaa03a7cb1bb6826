"""Graphs for tests of control and time travel: they say what ran, and hold where they are told to.

What they say goes to this module, which works because these tests run runners as objects.
"""

import asyncio
import itertools
import operator
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

import wtb_ray

Builder = StateGraph[Any, Any, Any, Any]

RAN: defaultdict[str, list[str]] = defaultdict(list)
"""What ran, by the key in the state."""
ENDED: defaultdict[str, list[str]] = defaultdict(list)
"""What of it has come to its end, where somebody waits for that."""
HELD: set[tuple[str, str]] = set()
"""Nodes that wait, by key and name, as long as they are in here."""
PATIENCE_S = 60.0


class State(TypedDict, total=False):
    key: str
    trail: Annotated[list[str], operator.add]
    count: int
    how: str


def ran(state: State, name: str) -> None:
    RAN[state["key"]].append(name)


async def holding(state: State, name: str) -> None:
    ran(state, name)
    patience = time.monotonic() + PATIENCE_S
    while (state["key"], name) in HELD and time.monotonic() < patience:
        await asyncio.sleep(0.005)


def node(name: str) -> Any:
    """Appends its name to the trail."""

    async def run(state: State) -> dict[str, Any]:
        await holding(state, name)
        return {"trail": [name + wtb_ray.params().get("mark", "")]}

    return run


def sync_node(name: str) -> Any:
    """The same in a thread, where nothing can end it."""

    def run(state: State) -> dict[str, Any]:
        ran(state, name)
        here = wtb_ray.workspace()
        patience = time.monotonic() + PATIENCE_S
        (here / f"{name}.txt").write_text("half")
        while (state["key"], name) in HELD and time.monotonic() < patience:
            time.sleep(0.005)
        (here.path / f"{name}.txt").write_text("whole")
        RAN[state["key"]].append(f"{name} wrote {here.path}")
        return {"trail": [name]}

    return run


def asker(name: str, questions: int = 1) -> Any:
    async def run(state: State) -> dict[str, Any]:
        ran(state, name)
        answers = [str(interrupt(f"{name}{i}?")) for i in range(questions)]
        await holding(state, f"{name} answered")
        return {"trail": [f"{name}:{','.join(answers)}"]}

    return run


def chained(builder: Builder, *names: str) -> Builder:
    builder.add_edge(START, names[0])
    for before, after in itertools.pairwise(names):
        builder.add_edge(before, after)
    return builder


def line_of(nodes: Sequence[tuple[str, Any]]) -> Builder:
    builder: Builder = StateGraph(State)
    for name, run in nodes:
        builder.add_node(name, run)
    return chained(builder, *(name for name, _ in nodes))


def line() -> Builder:
    """a, b, c."""
    return line_of([(name, node(name)) for name in "abc"])


def stopping() -> Any:
    """a, b, c with breakpoints of its own: before b, and after c."""
    return line_of([(n, node(n)) for n in "abcd"]).compile(
        interrupt_before=["b"], interrupt_after=["c"]
    )


def fifty() -> Builder:
    return line_of([(f"n{i}", node(f"n{i}")) for i in range(50)])


def filing(name: str) -> Any:
    """Adds a line to a file of all nodes, and makes one of its own."""

    async def run(state: State) -> dict[str, Any]:
        here = wtb_ray.workspace()
        with (here / "all.txt").open("a") as f:
            f.write(name)
        (here / f"{name}.txt").write_text(wtb_ray.params().get("mark", name))
        await holding(state, name)
        ENDED[state["key"]].append(name)
        return {"trail": [name + (here / "all.txt").read_text()]}

    return run


def files() -> Builder:
    return line_of([(name, filing(name)) for name in "abcd"])


def beside(*others: tuple[str, Any]) -> Builder:
    """a, then all others beside each other, then z."""
    builder: Builder = StateGraph(State)
    builder.add_node("a", node("a"))
    builder.add_node("z", node("z"))
    builder.add_edge(START, "a")
    for name, run in others:
        builder.add_node(name, run)
        builder.add_edge("a", name)
    builder.add_edge([name for name, _ in others], "z")
    builder.add_edge("z", END)
    return builder


def nested() -> Builder:
    """a, then quick beside a subgraph of x, y, w; then z. All leave files."""
    inner = line_of([(name, filing(name)) for name in "xyw"])
    return beside(("quick", filing("quick")), ("inner", inner.compile()))


def inner_asks() -> Builder:
    inner = line_of([("x", node("x")), ("ask", asker("ask")), ("w", node("w"))])
    return beside(("quick", node("quick")), ("inner", inner.compile()))


def asks() -> Builder:
    """quick, beside a node that asks and leaves a file; then z."""

    async def ask(state: State) -> dict[str, Any]:
        ran(state, "ask")
        (wtb_ray.workspace() / "asked.txt").write_text("asked")
        answer = interrupt("ask0?")
        await holding(state, "ask answered")
        (wtb_ray.workspace() / "answer.txt").write_text(str(answer))
        return {"trail": [f"ask:{answer}"]}

    return beside(("quick", filing("quick")), ("ask", ask))


def three_ask() -> Builder:
    return beside(*((name, asker(name)) for name in ("p", "q", "r")))


def asks_in_a_row() -> Builder:
    """a, then three nodes that ask one after the other."""
    return line_of([("a", node("a")), *((name, asker(name)) for name in ("p", "q", "r"))])


def asks_twice() -> Builder:
    return beside(("quick", node("quick")), ("ask", asker("ask", 2)))


def failing() -> Builder:
    """quick beside a node that fails the first time; then z."""

    async def fail(state: State) -> dict[str, Any]:
        ran(state, "fail")
        (wtb_ray.workspace() / "fail.txt").write_text("half")
        if RAN[state["key"]].count("fail") == 1:
            while "quick" not in ENDED[state["key"]]:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)  # until LangGraph has taken notice of it, too
            raise ValueError("not yet")
        return {"trail": ["fail"]}

    return beside(("quick", filing("quick")), ("fail", fail))


def leaving() -> Builder:
    """A node that fails while one in a thread goes on beside it."""

    async def fail(state: State) -> dict[str, Any]:
        ran(state, "fail")
        if RAN[state["key"]].count("fail") == 1:
            while "stuck" not in RAN[state["key"]]:
                await asyncio.sleep(0.005)
            raise ValueError("not yet")
        return {"trail": ["fail"]}

    return beside(("stuck", sync_node("stuck")), ("fail", fail))


def stuck() -> Builder:
    return line_of([("a", filing("a")), ("stuck", sync_node("stuck")), ("c", filing("c"))])


def seeding() -> Builder:
    """A node that seeds the global random source, as scikit-learn scripts do."""

    async def seed(state: State) -> dict[str, Any]:
        ran(state, "seed")
        random.seed(7)
        mark = wtb_ray.params().get("mark", "plain")
        return {"trail": [f"{mark} {random.random():.3f}"], "how": mark * 50}

    async def read(state: State) -> dict[str, Any]:
        return {"trail": [f"read {state['how'][:5]}"]}

    return line_of([("a", node("a")), ("seed", seed), ("read", read), ("seed2", seed)])
