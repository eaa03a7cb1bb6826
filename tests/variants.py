"""A project with variants of every kind, and entries that are wrong in every way."""

import asyncio
import functools
import operator
import threading
import time
from typing import Annotated, Any, Literal

from langchain_core.runnables import RunnableLambda
from langgraph.cache.memory import InMemoryCache
from langgraph.channels import DeltaChannel
from langgraph.func import entrypoint
from langgraph.graph import END, START, StateGraph
from langgraph.types import CachePolicy, Command, RetryPolicy, interrupt
from typing_extensions import TypedDict

from wtb_ray.context import current_node, params

Builder = StateGraph[Any, Any, Any, Any]


def extended(left: list[str], right: list[str]) -> list[str]:
    """Adds what is new: a subgraph gives back all that it was given, and more."""
    return right if left and right[: len(left)] == left else left + right


class State(TypedDict, total=False):
    query: str
    said: Annotated[list[str], extended]


def say(text: str) -> dict[str, Any]:
    return {"said": [text]}


async def retrieve(state: State) -> dict[str, Any]:
    return say(f"retrieve {state['query']} {params().get('k', 'all')}")


def generate(state: State) -> dict[str, Any]:
    return say(f"generate {params().get('model', 'plain')} at {current_node()}")


async def draft(state: State) -> dict[str, Any]:
    return say(f"draft {params().get('tone', 'neutral')} at {current_node()}")


async def polish(state: State) -> dict[str, Any]:
    return say("polish")


def refine() -> Builder:
    graph = StateGraph(State).add_sequence([draft, polish])
    return graph.add_edge(START, "draft")


def project() -> Builder:
    graph = StateGraph(State)
    graph.add_node("retrieve", retrieve)
    graph.add_node("generate", generate, retry_policy=RetryPolicy(max_attempts=2))
    graph.add_node("refine", refine().compile())
    graph.add_edge(START, "retrieve")
    graph.add_edge("retrieve", "generate")
    graph.add_edge("generate", "refine")
    return graph


def simple() -> Builder:
    graph = StateGraph(State).add_node("generate", generate)
    return graph.add_edge(START, "generate")


async def async_project() -> Builder:
    await asyncio.sleep(0)
    return project()


def defaults() -> Any:
    """Its builder was compiled before, with defaults that `compile()` puts into the nodes."""

    async def handle(state: State) -> dict[str, Any]:
        return say("handled")

    builder = simple()
    builder.set_node_defaults(retry_policy=RetryPolicy(max_attempts=2), error_handler=handle)
    return builder.compile()


def options_inside() -> Builder:
    inner = refine().compile(checkpointer=True, interrupt_before=["polish"], name="named")
    configured = inner.with_config({"recursion_limit": 7})
    return StateGraph(State).add_node("inner", configured).add_edge(START, "inner")


stopping = project().compile(
    interrupt_before=["generate"], interrupt_after=["refine"], name="stopping"
)


# Implementations that take a node's place


def bm25(state: State) -> dict[str, Any]:
    return say(f"bm25 {params().get('k', 'all')}")


async def dense(state: State) -> dict[str, Any]:
    return say("dense")


def bm25_draft(state: State) -> dict[str, Any]:
    return say(f"other draft at {current_node()}")


class Tuned:
    """A callable object: what it holds makes the difference."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def __call__(self, state: State) -> dict[str, Any]:
        return say(f"tuned {self.name}")


tuned = Tuned("one")


def _prompted(prompt: str, state: State) -> dict[str, Any]:
    return say(f"prompted {prompt}")


prompted = functools.partial(_prompted, "politely")
runnable = RunnableLambda(_prompted.__get__("as a runnable"))


def closed_over(text: str) -> Any:
    def node(state: State) -> dict[str, Any]:
        return say(text)

    return node


closure = closed_over("closure")
nameless = lambda state: say("nameless")  # noqa: E731


class Longer(TypedDict, total=False):
    query: str
    extra: str


async def own_schema(state: Longer) -> dict[str, Any]:
    return {**say(f"sees {sorted(state)}"), "extra": "written"}


def as_graph() -> Builder:
    return refine()


sub = refine()


async def jumps(state: State) -> Command[Literal["refine", "__end__"]]:
    return Command(update=say("jumps"), goto="__end__")


async def jumps_nowhere(state: State) -> Command[Literal["nowhere"]]:
    return Command(goto="nowhere")


class Handler:
    @staticmethod
    def generate(state: State) -> dict[str, Any]:
        return say("static")


# Questions, caches, breakpoints


async def ask(state: State) -> dict[str, Any]:
    return say(f"answered {interrupt({'question': state['query']})}")


async def ask_again(state: State) -> dict[str, Any]:
    return say(f"also answered {interrupt('second')}")


def asking() -> Builder:
    graph = StateGraph(State)
    graph.add_node("ask", ask)
    graph.add_node("other", ask_again)
    graph.add_node("calm", dense)
    graph.add_node("last", polish)
    for node in ("ask", "other", "calm"):
        graph.add_edge(START, node)
    graph.add_edge(["ask", "other", "calm"], "last")
    return graph


class Counted(TypedDict, total=False):
    query: str
    said: Annotated[list[str], operator.add]


CACHED_RUNS: list[str] = []


async def costly(state: Counted) -> dict[str, Any]:
    CACHED_RUNS.append(state["query"])
    return say(f"costly {len(CACHED_RUNS)} {params().get('k', 1)}")


def _cached() -> Builder:
    policy: CachePolicy[Any] = CachePolicy(key_func=lambda state: str(state["query"]))
    graph = StateGraph(Counted)
    graph.add_node("costly", costly, cache_policy=policy)
    return graph.add_edge(START, "costly")


cached = _cached().compile(cache=InMemoryCache())


def _twice() -> Builder:
    """A loop in which the cached node comes by twice with the same query."""

    async def check(state: Counted) -> Command[Literal["costly", "__end__"]]:
        return Command(goto="costly" if len(state["said"]) < 2 else "__end__")

    return _cached().add_node("check", check).add_edge("costly", "check")


cached_twice = _twice().compile(cache=InMemoryCache())


class Memory(TypedDict, total=False):
    seen: Annotated[int, operator.add]
    told: list[str]


def remembering() -> Builder:
    """A subgraph that keeps its state from call to call, called in a loop."""

    async def see(state: Memory) -> Memory:
        return {"seen": 1}

    async def tell(state: Memory) -> dict[str, Any]:
        return {"said": [f"seen {state['seen']}"]}

    class Inner(Memory, total=False):
        said: Annotated[list[str], extended]

    inner = StateGraph(Inner, output_schema=State).add_sequence([see, tell])
    inner.add_edge(START, "see")

    async def pause(state: State) -> dict[str, Any]:
        return {}

    def again(state: State) -> str:
        return "inner" if len(state["said"]) < 3 else END

    graph = StateGraph(State)
    graph.add_node("inner", inner.compile(checkpointer=True))
    graph.add_node("pause", pause)
    graph.add_edge(START, "inner")
    graph.add_edge("inner", "pause")
    graph.add_conditional_edges("pause", again, ["inner", END])
    return graph


# Failures outside and inside nodes


def bad_router() -> Builder:
    def route(state: State) -> str:
        raise LookupError("no such road")

    graph = StateGraph(State).add_node("retrieve", retrieve).add_node("generate", generate)
    graph.add_edge(START, "retrieve")
    graph.add_conditional_edges("retrieve", route, ["generate"])
    return graph


def _refuse(left: list[str], right: list[str]) -> list[str]:
    if "b" in right:
        raise ArithmeticError("cannot reduce b")
    return left + right


class Refusing(TypedDict, total=False):
    values: Annotated[list[str], _refuse]


def bad_reducer() -> Builder:
    async def a(state: Refusing) -> Refusing:
        return {"values": ["a"]}

    async def b(state: Refusing) -> Refusing:
        return {"values": ["b"]}

    return StateGraph(Refusing).add_sequence([a, b]).add_edge(START, "a")


class Single(TypedDict, total=False):
    value: str


def key_conflict() -> Builder:
    async def left(state: Single) -> Single:
        return {"value": "left"}

    async def right(state: Single) -> Single:
        return {"value": "right"}

    graph = StateGraph(Single).add_node("left", left).add_node("right", right)
    return graph.add_edge(START, "left").add_edge(START, "right")


def bad_return() -> Builder:
    async def wrong(state: State) -> Any:
        return 5

    return StateGraph(State).add_node("wrong", wrong).add_edge(START, "wrong")


def endless() -> Builder:
    async def again(state: State) -> dict[str, Any]:
        return say("again")

    graph = StateGraph(State).add_node("again", again)
    return graph.add_edge(START, "again").add_edge("again", "again")


def _fail(state: State) -> dict[str, Any]:
    raise RuntimeError("deep \x00 down")


def failing_inside() -> Builder:
    """The inner node fails at its third attempt, in the only attempt of the outer one."""
    inner = StateGraph(State)
    policy = RetryPolicy(initial_interval=0.001, max_attempts=3, retry_on=RuntimeError)
    inner.add_node("deep", _fail, retry_policy=policy)
    inner.add_edge(START, "deep")
    graph = StateGraph(State).add_node("outer", inner.compile())
    return graph.add_edge(START, "outer")


def endless_inside() -> Builder:
    inner = endless().compile().with_config({"recursion_limit": 3})
    return StateGraph(State).add_node("outer", inner).add_edge(START, "outer")


def long_way() -> Builder:
    def chain(*names: str) -> Builder:
        graph = StateGraph(State)
        for before, name in zip((START, *names), names, strict=False):
            graph.add_node(name, closed_over(name))
            graph.add_edge(before, name)
        return graph

    graph = chain(*"abcdef")
    graph.add_node("inner", chain(*"vwxyz").compile())
    graph.add_edge("f", "inner")
    return graph


SAME = RuntimeError("always the same object")


def raises_same() -> Builder:
    async def same(state: State) -> dict[str, Any]:
        raise SAME

    policy = RetryPolicy(initial_interval=0.001, max_attempts=3, retry_on=RuntimeError)
    return StateGraph(State).add_node("same", same, retry_policy=policy).add_edge(START, "same")


def exits() -> Builder:
    async def leave(state: State) -> dict[str, Any]:
        raise SystemExit(3)

    return StateGraph(State).add_node("leave", leave).add_edge(START, "leave")


def exits_in_a_thread() -> Builder:
    def leave(state: State) -> dict[str, Any]:
        raise SystemExit(4)

    graph = StateGraph(State).add_node("leave", leave).add_node("beside", dense)
    return graph.add_edge(START, "leave").add_edge(START, "beside")


def unstorable() -> Builder:
    async def huge(state: State) -> dict[str, Any]:
        return {"said": [2**70]}

    return StateGraph(State).add_node("huge", huge).add_edge(START, "huge")


def unstorable_class() -> Builder:
    async def lock(state: State) -> dict[str, Any]:
        return {"said": [threading.Lock()]}

    return StateGraph(State).add_node("lock", lock).add_edge(START, "lock")


# Entries that are wrong


def raising() -> Builder:
    raise RuntimeError("no graph today")


def gives_number() -> int:
    return 42


def hanging() -> Builder:
    time.sleep(30)
    return project()


def needs_argument(model: str) -> Builder:
    return project()


def no_start() -> Builder:
    return StateGraph(State).add_node("retrieve", retrieve)


class Deltas(TypedDict, total=False):
    log: Annotated[list[str], DeltaChannel(lambda state, writes: [*(state or []), *writes])]


def deltas() -> Builder:
    async def node(state: Deltas) -> Deltas:
        return {"log": ["x"]}

    return StateGraph(Deltas).add_node("node", node).add_edge(START, "node")


def deltas_inside() -> Builder:
    return StateGraph(State).add_node("inner", deltas().compile()).add_edge(START, "inner")


@entrypoint()
async def functional(state: State) -> State:
    return state


number = 42
