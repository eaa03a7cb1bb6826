"""Graphs of every shape that the bench must run exactly as LangGraph runs them alone.

Each function is an entry (`tests.shapes:linear`); `SHAPES` gives its input. All are deterministic:
the same input gives the same final state and the same number of steps, however often the run was
interrupted on its way.
"""

import asyncio
import dataclasses
import itertools
import operator
from collections.abc import Callable
from typing import Annotated, Any, Literal

from langchain_core.messages import AIMessage, AnyMessage, RemoveMessage
from langgraph.config import get_stream_writer
from langgraph.errors import NodeError
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.managed import RemainingSteps
from langgraph.runtime import Runtime
from langgraph.types import Command, Overwrite, RetryPolicy, Send
from pydantic import BaseModel
from typing_extensions import TypedDict

Builder = StateGraph[Any, Any, Any, Any]


class Trail(TypedDict, total=False):
    trail: Annotated[list[str], operator.add]
    count: int


def step(name: str) -> Any:
    async def node(state: Trail) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"trail": [name], "count": state.get("count", 0) + 1}

    return node


def mark(name: str) -> Any:
    """A node that may run beside others: it writes to the reduced channel alone."""

    async def node(state: Trail) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"trail": [f"{name}:{len(state['trail'])}"]}

    return node


def chain(*names: str) -> Builder:
    graph = StateGraph(Trail)
    for name in names:
        graph.add_node(name, step(name))
    graph.add_edge(START, names[0])
    for before, after in itertools.pairwise(names):
        graph.add_edge(before, after)
    return graph


def linear() -> Builder:
    return chain("a", "b", "c", "d", "e")


def sync_nodes() -> Builder:
    def one(state: Trail) -> Trail:
        return {"trail": ["one"], "count": 1}

    def two(state: Trail) -> Trail:
        return {"trail": ["two"], "count": state["count"] + 1}

    return StateGraph(Trail).add_sequence([one, two]).add_edge(START, "one")


def conditional() -> Builder:
    def route(state: Trail) -> Literal["even", "odd"]:
        return "even" if state["count"] % 2 == 0 else "odd"

    graph = StateGraph(Trail)
    for name in ("first", "even", "odd", "last"):
        graph.add_node(name, step(name))
    graph.add_edge(START, "first")
    graph.add_conditional_edges("first", route)
    graph.add_edge("even", "last")
    graph.add_edge("odd", "last")
    return graph


def cycle() -> Builder:
    def again(state: Trail) -> str:
        return "work" if state["count"] < 6 else END

    graph = chain("work", "check")
    graph.add_conditional_edges("check", again, ["work", END])
    return graph


def parallel() -> Builder:
    graph = StateGraph(Trail)
    for name in ("a", "b", "c", "d"):
        graph.add_node(name, mark(name))
    graph.add_edge(START, "a")
    graph.add_edge("a", "b")
    graph.add_edge("a", "c")
    graph.add_edge(["b", "c"], "d")
    return graph


def uneven() -> Builder:
    """Branches of unequal length: without a join the last node runs once for each."""
    graph = StateGraph(Trail)
    for name in ("a", "short", "long1", "long2", "last"):
        graph.add_node(name, mark(name))
    graph.add_edge(START, "a")
    graph.add_edge("a", "short")
    graph.add_edge("a", "long1")
    graph.add_edge("long1", "long2")
    graph.add_edge("short", "last")
    graph.add_edge("long2", "last")
    return graph


def deferred() -> Builder:
    graph = StateGraph(Trail)
    for name in ("a", "short", "long1", "long2"):
        graph.add_node(name, mark(name))
    graph.add_node("last", mark("last"), defer=True)
    graph.add_edge(START, "a")
    graph.add_edge("a", "short")
    graph.add_edge("a", "long1")
    graph.add_edge("long1", "long2")
    graph.add_edge("short", "last")
    graph.add_edge("long2", "last")
    return graph


class Map(TypedDict, total=False):
    items: list[int]
    squares: Annotated[list[int], operator.add]
    total: int


def send() -> Builder:
    async def plan(state: Map) -> Map:
        return {"items": [*state["items"], 7]}

    async def square(state: Any) -> Map:
        await asyncio.sleep(0.001 * (3 - state["n"] % 3))  # they end in another order
        return {"squares": [state["n"] ** 2]}

    async def total(state: Map) -> Map:
        return {"total": sum(state["squares"])}

    graph = StateGraph(Map)
    graph.add_node("plan", plan)
    graph.add_node("square", square)
    graph.add_node("total", total)
    graph.add_edge(START, "plan")
    graph.add_conditional_edges(
        "plan", lambda state: [Send("square", {"n": n}) for n in state["items"]], ["square"]
    )
    graph.add_edge("square", "total")
    return graph


def subgraph() -> Builder:
    graph = StateGraph(Trail)
    graph.add_node("before", step("before"))
    graph.add_node("inner", chain("x", "y").compile())
    graph.add_node("after", step("after"))
    graph.add_edge(START, "before")
    graph.add_edge("before", "inner")
    graph.add_edge("inner", "after")
    return graph


class Inner(TypedDict, total=False):
    number: int


def called_subgraph() -> Builder:
    """A subgraph with a state of its own, invoked by a function."""

    async def double(state: Inner) -> Inner:
        return {"number": state["number"] * 2}

    inner = StateGraph(Inner).add_node("double", double).add_node("again", double)
    inner.add_edge(START, "double").add_edge("double", "again")
    compiled = inner.compile()

    async def call(state: Trail) -> Trail:
        result = await compiled.ainvoke({"number": state["count"]})
        return {"count": result["number"], "trail": ["call"]}

    graph = chain("a")
    graph.add_node("call", call)
    graph.add_edge("a", "call")
    return graph


def command_goto() -> Builder:
    async def decide(state: Trail) -> Command[Literal["left", "right"]]:
        goto: Literal["left", "right"] = "left" if state["count"] > 1 else "right"
        return Command(update={"trail": ["decide"], "count": state["count"] + 1}, goto=goto)

    async def right(state: Trail) -> Command[Literal["decide"]]:
        return Command(update={"trail": ["right"]}, goto="decide")

    graph = StateGraph(Trail)
    graph.add_node("decide", decide)
    graph.add_node("left", step("left"))
    graph.add_node("right", right)
    graph.add_edge(START, "decide")
    return graph


def command_parent() -> Builder:
    async def leave(state: Trail) -> Command[Any]:
        return Command(graph=Command.PARENT, goto="landed", update={"trail": ["left inner"]})

    inner = chain("x")
    inner.add_node("leave", leave)
    inner.add_edge("x", "leave")
    graph = StateGraph(Trail)
    graph.add_node("inner", inner.compile(), destinations=("landed",))
    graph.add_node("landed", step("landed"))
    graph.add_edge(START, "inner")
    return graph


def command_sends() -> Builder:
    async def plan(state: Map) -> Command[Literal["square"]]:
        return Command(goto=[Send("square", {"n": n}) for n in state["items"]], update={"total": 0})

    async def square(state: Any) -> Map:
        return {"squares": [state["n"] ** 2]}

    async def total(state: Map) -> Map:
        return {"total": state["total"] + sum(state["squares"])}

    graph = StateGraph(Map)
    graph.add_node("plan", plan)
    graph.add_node("square", square)
    graph.add_node("total", total)
    graph.add_edge(START, "plan")
    graph.add_edge("square", "total")
    return graph


def merged(left: dict[str, int], right: dict[str, int]) -> dict[str, int]:
    return {k: left.get(k, 0) + right.get(k, 0) for k in sorted({*left, *right})}


def largest(left: int, right: int) -> int:
    return max(left, right)


class Reduced(TypedDict, total=False):
    counts: Annotated[dict[str, int], merged]
    most: Annotated[int, largest]
    log: Annotated[list[str], operator.add]


def reducers() -> Builder:
    async def left(state: Reduced) -> Reduced:
        return {"counts": {"l": 1, "both": 2}, "most": 5, "log": ["left"]}

    async def right(state: Reduced) -> Reduced:
        return {"counts": {"r": 3, "both": 4}, "most": 9, "log": ["right"]}

    async def reset(state: Reduced) -> dict[str, Any]:
        return {"log": Overwrite(["reset", str(state["most"])])}

    graph = StateGraph(Reduced)
    graph.add_node("left", left)
    graph.add_node("right", right)
    graph.add_node("reset", reset)
    graph.add_edge(START, "left")
    graph.add_edge(START, "right")
    graph.add_edge(["left", "right"], "reset")
    return graph


class Chat(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


def messages() -> Builder:
    async def answer(state: Chat) -> dict[str, Any]:
        return {"messages": [AIMessage(f"answer {len(state['messages'])}", id="ai1")]}

    async def forget(state: Chat) -> dict[str, Any]:
        return {"messages": [RemoveMessage(id="h1"), AIMessage("corrected", id="ai1")]}

    graph = StateGraph(Chat)
    graph.add_node("answer", answer)
    graph.add_node("forget", forget)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", "forget")
    return graph


class Document(BaseModel):
    title: str
    tags: list[str] = []


class Model(BaseModel):
    document: Document
    words: int = 0
    trail: Annotated[list[str], operator.add] = []


def pydantic_state() -> Builder:
    async def count(state: Model) -> dict[str, Any]:
        return {"words": len(state.document.title.split()), "trail": ["count"]}

    async def tag(state: Model) -> dict[str, Any]:
        tagged = state.document.model_copy(update={"tags": [*state.document.tags, "t"]})
        return {"document": tagged, "trail": ["tag"]}

    graph = StateGraph(Model)
    graph.add_node("count", count)
    graph.add_node("tag", tag)
    graph.add_edge(START, "count")
    graph.add_edge("count", "tag")
    return graph


@dataclasses.dataclass
class Finding:
    title: str
    score: float


@dataclasses.dataclass
class Data:
    name: str
    best: Finding | None = None
    trail: Annotated[list[str], operator.add] = dataclasses.field(default_factory=list)


def dataclass_state() -> Builder:
    async def find(state: Data) -> dict[str, Any]:
        return {"best": Finding(state.name, 0.5), "trail": ["find"]}

    async def improve(state: Data) -> dict[str, Any]:
        assert state.best is not None
        return {"best": Finding(state.best.title, state.best.score * 2), "trail": ["improve"]}

    graph = StateGraph(Data)
    graph.add_node("find", find)
    graph.add_node("improve", improve)
    graph.add_edge(START, "find")
    graph.add_edge("find", "improve")
    return graph


class Loose(TypedDict, total=False):
    found: Annotated[list[Any], operator.add]
    best: str


def untyped_list() -> Builder:
    """Values of classes that no annotation names."""

    async def find(state: Loose) -> Loose:
        return {"found": [Finding("one", 0.1), Finding("two", 0.9), Document(title="three")]}

    async def choose(state: Loose) -> Loose:
        findings = [f for f in state["found"] if isinstance(f, Finding)]
        return {"best": max(findings, key=lambda f: f.score).title}

    graph = StateGraph(Loose)
    graph.add_node("find", find)
    graph.add_node("choose", choose)
    graph.add_edge(START, "find")
    graph.add_edge("find", "choose")
    return graph


def stream_writer() -> Builder:
    async def tell(state: Trail) -> Trail:
        get_stream_writer()({"progress": 0.5})
        return {"trail": ["told"]}

    graph = chain("a")
    graph.add_node("tell", tell)
    graph.add_edge("a", "tell")
    return graph


def retried() -> Builder:
    """A node that succeeds at its third attempt."""

    async def flaky(state: Trail, runtime: Runtime[None]) -> Trail:
        attempt = runtime.execution_info.node_attempt  # type: ignore[union-attr]
        if attempt < 3:
            raise ConnectionError(f"attempt {attempt}")
        return {"trail": [f"succeeded at {attempt}"]}

    graph = chain("a")
    policy = RetryPolicy(initial_interval=0.001, max_attempts=3, jitter=False)
    graph.add_node("flaky", flaky, retry_policy=policy)
    graph.add_edge("a", "flaky")
    return graph


def failing() -> Builder:
    """The second node fails at each of its two attempts while a sibling still works."""

    async def fail(state: Trail) -> Trail:
        raise ConnectionError(f"no route for {state['trail']}")

    async def slow(state: Trail) -> Trail:
        await asyncio.sleep(5)
        return {"trail": ["slow"]}

    graph = chain("a")
    policy = RetryPolicy(initial_interval=0.001, max_attempts=2, jitter=False)
    graph.add_node("fail", fail, retry_policy=policy)
    graph.add_node("slow", slow)
    graph.add_edge("a", "fail")
    graph.add_edge("a", "slow")
    return graph


def handled() -> Builder:
    """A node error that an error handler turns into an update."""

    async def fail(state: Trail) -> Trail:
        raise ValueError("expected")

    async def handle(state: Trail, error: NodeError) -> Command[Any]:
        # Not the error itself: LangGraph restores it as text after a crash.
        update = {"trail": [f"handled {error.node}"]}
        return Command(update=update, goto="last")

    graph = chain("a")
    graph.add_node("fail", fail, error_handler=handle)
    graph.add_node("last", step("last"))
    graph.add_edge("a", "fail")
    return graph


class Budget(TypedDict, total=False):
    left: Annotated[list[int], operator.add]
    remaining: RemainingSteps


def remaining_steps() -> Builder:
    """A loop that ends when few steps are left: it reads the recursion limit."""

    async def read(state: Budget) -> Budget:
        return {"left": [state["remaining"]]}

    def again(state: Budget) -> str:
        return "read" if state["remaining"] > 12 else END

    graph = StateGraph(Budget)
    graph.add_node("read", read)
    graph.add_edge(START, "read")
    graph.add_conditional_edges("read", again, ["read", END])
    return graph


class Question(TypedDict):
    question: str


class Private(TypedDict):
    notes: list[str]


class Answer(TypedDict):
    answer: str


class Whole(TypedDict, total=False):
    question: str
    answer: str


def schemas() -> Builder:
    """Input, output and private schemas that differ from the state's."""

    async def think(state: Question) -> Private:
        return {"notes": state["question"].split()}

    async def say(state: Private) -> Answer:
        return {"answer": " ".join(reversed(state["notes"]))}

    graph = StateGraph(Whole, input_schema=Question, output_schema=Answer)
    graph.add_node("think", think)
    graph.add_node("say", say)
    graph.add_edge(START, "think")
    graph.add_edge("think", "say")
    return graph


def root_state() -> Builder:
    """A state that is one value, not a mapping."""

    async def one(state: list[str]) -> list[str]:
        return ["one"]

    async def two(state: list[str]) -> list[str]:
        return [f"two after {len(state)}"]

    graph: Builder = StateGraph(Annotated[list[str], operator.add])  # type: ignore[arg-type]
    graph.add_node("one", one)
    graph.add_node("two", two)
    graph.add_edge(START, "one")
    graph.add_edge("one", "two")
    return graph


def nothing_written() -> Builder:
    """A node without an update, and one whose update is empty."""

    async def silent(state: Trail) -> None:
        return None

    async def empty(state: Trail) -> Trail:
        return {}

    graph = chain("a")
    graph.add_node("silent", silent)
    graph.add_node("empty", empty)
    graph.add_node("z", step("z"))
    graph.add_edge("a", "silent")
    graph.add_edge("silent", "empty")
    graph.add_edge("empty", "z")
    return graph


@dataclasses.dataclass(frozen=True)
class Shape:
    """A graph by its entry, what to give it, and whether it ends in an error."""

    name: str
    input: Any
    fails: bool = False

    @property
    def entry(self) -> str:
        return f"tests.shapes:{self.name}"

    @property
    def factory(self) -> Callable[[], Builder]:
        factory: Callable[[], Builder] = globals()[self.name]
        return factory


TRAIL: dict[str, Any] = {"trail": ["in"], "count": 0}

SHAPES = {
    shape.name: shape
    for shape in (
        Shape("linear", TRAIL),
        Shape("sync_nodes", TRAIL),
        Shape("conditional", TRAIL),
        Shape("cycle", TRAIL),
        Shape("parallel", TRAIL),
        Shape("uneven", TRAIL),
        Shape("deferred", TRAIL),
        Shape("send", {"items": [1, 2, 3, 4]}),
        Shape("subgraph", TRAIL),
        Shape("called_subgraph", TRAIL),
        Shape("command_goto", TRAIL),
        Shape("command_parent", TRAIL),
        Shape("command_sends", {"items": [1, 2, 3]}),
        Shape("reducers", {"counts": {"in": 1}, "most": 1, "log": ["in"]}),
        Shape("messages", {"messages": [{"role": "user", "content": "hello", "id": "h1"}]}),
        Shape("pydantic_state", {"document": {"title": "a b c"}}),
        Shape("dataclass_state", {"name": "n"}),
        Shape("untyped_list", {"found": []}),
        Shape("stream_writer", TRAIL),
        Shape("retried", TRAIL),
        Shape("failing", TRAIL, fails=True),
        Shape("handled", TRAIL),
        Shape("remaining_steps", {"left": []}),
        Shape("schemas", {"question": "who is there"}),
        Shape("root_state", ["in"]),
        Shape("nothing_written", TRAIL),
    )
}
