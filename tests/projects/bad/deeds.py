"""A graph that does what its input says, most of it wrong."""

import threading
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt


class State(TypedDict, total=False):
    deed: str
    value: Any
    answer: str


async def work(state: State) -> State:
    match state.get("deed"):
        case "lock":
            return {"value": {"deep": [threading.Lock()]}}
        case "local class":

            class Local:
                """A class that nobody can import."""

            return {"value": Local()}
        case "ask":
            return {"answer": interrupt("May I?")}
        case "no update":
            return 7  # type: ignore[return-value]
        case "exit":
            raise SystemExit(3)
    return {"answer": "done"}


def again(state: State) -> str:
    return "work" if state.get("deed") == "loop" else END


def graph() -> StateGraph[Any]:
    builder = StateGraph(State)
    builder.add_node("work", work)
    builder.add_edge(START, "work")
    builder.add_conditional_edges("work", again, ["work", END])
    return builder


NUMBER = 7


def gives_a_number() -> int:
    return NUMBER
