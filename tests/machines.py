"""Random graphs: `tests.machines:g7` is the graph of seed 7, the same in every process.

Each is a row of random pieces: lines, parallel nodes, Sends, choices, loops, Commands, subgraphs and
questions. Nodes say what they did when they did it, in a file of their workspace too. What a node
adds depends on its variant, and routes depend on what was added.
"""

import asyncio
import operator
import random
from collections import defaultdict
from collections.abc import Callable
from contextvars import ContextVar
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt

import wtb_ray
from wtb_ray.model import VariantSpec

Builder = StateGraph[Any, Any, Any, Any]

DONE: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
"""What nodes have done, by the key in the state: file and content."""
HELD: set[str] = set()
"""Names of nodes that wait, before they do anything, as long as they are in here."""
WAITING: set[str] = set()
"""Those that do."""
PLAIN: ContextVar[Callable[[int, str], int] | None] = ContextVar("plain", default=None)
"""Set where LangGraph runs alone: what a node adds, by super-step and name."""
MOST_ROUNDS = 3


def merged(left: dict[str, int], right: dict[str, int]) -> dict[str, int]:
    return {k: left.get(k, 0) + right.get(k, 0) for k in sorted({*left, *right})}


class State(TypedDict, total=False):
    key: str
    files: bool
    trail: Annotated[list[str], operator.add]
    sums: Annotated[dict[str, int], merged]
    last: str


async def _did(state: Any, name: str, config: RunnableConfig, part: str = "") -> int:
    """Waits where it is held, then does the node's deed; gives what the node adds."""
    if PLAIN.get() is None:
        while name in HELD:
            WAITING.add(name)
            await asyncio.sleep(0.002)
        WAITING.discard(name)
    else:
        await asyncio.sleep(0)
    plain = PLAIN.get()
    by = plain(config["metadata"]["langgraph_step"], name) if plain else added()
    content = f"{by} after {len(state['trail'])}"
    if plain is None and state.get("files"):
        (wtb_ray.workspace() / f"{name}{part}.txt").write_text(content)
    DONE[state["key"]].append((f"{name}{part}.txt", content))
    return by


def added() -> int:
    by: int = wtb_ray.params().get("by", 1)
    return by


def _update(state: Any, name: str, by: int) -> dict[str, Any]:
    return {"trail": [f"{name}+{by}@{len(state['trail'])}"], "sums": {name: by}}


def node(name: str) -> Any:
    async def run(state: State, config: RunnableConfig) -> dict[str, Any]:
        return _update(state, name, await _did(state, name, config))

    return run


def single(name: str) -> Any:
    """A node that runs beside no other, and may write what is not reduced."""

    async def run(state: State, config: RunnableConfig) -> dict[str, Any]:
        by = await _did(state, name, config)
        return {**_update(state, name, by), "last": f"{name} after {state.get('last')}"}

    return run


def asker(name: str, questions: int) -> Any:
    async def run(state: State, config: RunnableConfig) -> dict[str, Any]:
        answers = [interrupt(f"{name} {i} {len(state['trail'])}") for i in range(questions)]
        by = await _did(state, name, config)
        return {"trail": [f"{name}+{by}:{answers}"], "sums": {name: by}}

    return run


def answer(question: str) -> str:
    """What everybody answers."""
    return f"yes to {question}"


class Made:
    """A random graph that grows piece by piece, each going on from the node before."""

    def __init__(self, seed: int):
        self.chance = random.Random(seed)
        self.builder: Builder = StateGraph(State)
        self.varying: list[str] = []
        self.count = 0
        self.at = self.name("first")
        self.builder.add_node(self.at, single(self.at))
        self.builder.add_edge(START, self.at)
        pieces = [self.line, self.fan, self.sends, self.choice, self.loop, self.goto]
        pieces += [self.nested, self.ask]
        for piece in self.chance.sample(pieces, self.chance.randint(2, 5)):
            piece()
        self.builder.add_edge(self.at, END)

    def name(self, kind: str) -> str:
        self.count += 1
        name = f"{kind}{self.count}"
        self.varying.append(name)
        return name

    def add(self, kind: str, make: Callable[[str], Any] = single) -> str:
        name = self.name(kind)
        self.builder.add_node(name, make(name))
        return name

    def joined(self, others: list[str]) -> None:
        join = self.add("join")
        self.builder.add_edge(others, join)
        self.at = join

    def line(self) -> None:
        for _ in range(self.chance.randint(1, 3)):
            after = self.add("line")
            self.builder.add_edge(self.at, after)
            self.at = after

    def fan(self) -> None:
        others = [self.add("fan", node) for _ in range(self.chance.randint(2, 3))]
        longer = self.add("long", node)
        for other in others:
            self.builder.add_edge(self.at, other)
        self.builder.add_edge(others[0], longer)
        self.joined([longer, *others[1:]])

    def sends(self) -> None:
        worker, many = self.name("worker"), self.chance.randint(1, 4)

        async def work(state: Any, config: RunnableConfig) -> dict[str, Any]:
            by = await _did({**state, "trail": []}, worker, config, f".{state['n']}")
            return {"trail": [f"{worker}*{by}"], "sums": {worker: by * state["n"]}}

        def plan(state: State) -> list[Send]:
            given = {"key": state["key"], "files": state.get("files", False)}
            return [Send(worker, {"n": n, **given}) for n in range(many)]

        self.builder.add_node(worker, work)
        self.builder.add_conditional_edges(self.at, plan, [worker])
        after = self.add("gathered")
        self.builder.add_edge(worker, after)
        self.at = after

    def choice(self) -> None:
        left, right, after = self.add("left"), self.add("right"), self.add("chosen")

        def route(state: State) -> str:
            return left if sum(state["sums"].values()) % 2 else right

        self.builder.add_conditional_edges(self.at, route, [left, right])
        self.builder.add_edge(left, after)
        self.builder.add_edge(right, after)
        self.at = after

    def loop(self) -> None:
        work, check, after = self.add("work"), self.add("check"), self.add("out")

        def again(state: State) -> str:
            rounds = sum(t.startswith(f"{check}+") for t in state["trail"])
            return work if state["sums"][work] < 4 and rounds < MOST_ROUNDS else after

        self.builder.add_edge(self.at, work)
        self.builder.add_edge(work, check)
        self.builder.add_conditional_edges(check, again, [work, after])
        self.at = after

    def goto(self) -> None:
        decide, there, after = self.name("decide"), self.add("there"), self.add("landed")

        async def run(state: State, config: RunnableConfig) -> Command[Any]:
            by = await _did(state, decide, config)
            place = there if by % 2 else after
            return Command(update=_update(state, decide, by), goto=place)

        self.builder.add_node(decide, run, destinations=(there, after))
        self.builder.add_edge(self.at, decide)
        self.builder.add_edge(there, after)
        self.at = after

    def nested(self) -> None:
        inner: Builder = StateGraph(State)
        names = [f"in{self.count + 10}{letter}" for letter in "xyz"]
        for name in names[:2]:
            inner.add_node(name, node(name))
        asks = self.chance.random() < 0.4
        inner.add_node(names[2], asker(names[2], 1) if asks else node(names[2]))
        inner.add_edge(START, names[0])
        inner.add_edge(names[0], names[1])
        inner.add_edge(names[1], names[2])
        outer, beside = self.name("sub"), self.add("beside", node)
        self.varying.remove(outer)
        self.builder.add_node(outer, inner.compile())
        self.builder.add_edge(self.at, outer)
        self.builder.add_edge(self.at, beside)
        self.joined([outer, beside])

    def ask(self) -> None:
        many = self.chance.randint(1, 3)
        others = [
            self.add("ask", lambda name: asker(name, self.chance.randint(1, 2)))
            for _ in range(many)
        ]
        others.append(self.add("silent", node))
        for other in others:
            self.builder.add_edge(self.at, other)
        self.joined(others)


def variants(seed: int) -> dict[str, dict[str, VariantSpec]]:
    """Every node of the graph has two variants, which add something else."""
    params = {"two": VariantSpec(params={"by": 2}), "five": VariantSpec(params={"by": 5})}
    return dict.fromkeys(Made(seed).varying, params)


def by_of(binding: dict[str, str], name: str) -> int:
    """What a node adds under a binding; the inner ones of subgraphs have no variants."""
    return {"two": 2, "five": 5}.get(binding.get(name, ""), 1)


def __getattr__(name: str) -> Any:
    if name.startswith("g") and name[1:].isdigit():
        return lambda: Made(int(name[1:])).builder
    raise AttributeError(name)
