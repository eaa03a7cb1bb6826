"""A small RAG pipeline with variants, over a corpus that everybody knows by heart.

Everything is deterministic, and the variants differ in what they find.
"""

import asyncio
import os
import re
import threading
import time
from typing import Any, TypedDict

from langgraph.graph import START, StateGraph

import wtb_ray

CORPUS = {
    "paris": "Paris is the capital of France.",
    "rome": "Rome is the capital of Italy.",
    "seine": "The Seine is a river that flows through Paris in France.",
    "tiber": "The Tiber is a river that flows through Rome in Italy.",
}


class State(TypedDict, total=False):
    query: str
    terms: list[str]
    documents: list[str]
    answer: str


class Waiting(TypedDict, total=False):
    seconds: float
    gate: str
    process: int
    thread: int
    began: float
    ended: float
    rested: bool


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def ranked(terms: list[str]) -> list[str]:
    """The documents that have any of the terms, the one with the most of them first."""
    hits = {name: len(words(text) & set(terms)) for name, text in CORPUS.items()}
    return [name for name in sorted(hits, key=lambda n: (-hits[n], n)) if hits[name]]


async def expand(state: State) -> State:
    return {"terms": sorted(words(state["query"]))}


async def retriever(state: State) -> State:
    """Everything in the order of its name: a baseline that is often wrong."""
    return {"documents": sorted(CORPUS)[: wtb_ray.params().get("k", 1)]}


async def bm25_retriever(state: State) -> State:
    return {"documents": ranked(state["terms"])[: wtb_ray.params().get("k", 1)]}


def faiss_retriever(state: State) -> State:
    """A retriever that blocks, and looks at the first term alone."""
    time.sleep(0.001)
    return {"documents": ranked(state["terms"][:1])[: wtb_ray.params().get("k", 1)]}


async def generator(state: State) -> State:
    if "boom" in state["terms"]:
        raise ValueError("no answer to boom")
    return {"answer": " ".join(state["documents"])}


def create_rag_graph() -> StateGraph[Any]:
    graph = StateGraph(State)
    graph.add_node("expand", expand)
    graph.add_node("retriever", retriever)
    graph.add_node("generator", generator)
    graph.add_edge(START, "expand")
    graph.add_edge("expand", "retriever")
    graph.add_edge("retriever", "generator")
    return graph


def simple_rag_architecture() -> StateGraph[Any]:
    """Another architecture: it answers at once."""

    async def answer(state: State) -> State:
        return {"answer": " ".join(ranked(sorted(words(state["query"])))[:1])}

    return StateGraph(State).add_node("answer", answer).add_edge(START, "answer")


def waiting_graph() -> StateGraph[Any]:
    """A sync node that blocks its thread, for a time or until a file is there, and one after it."""

    def wait(state: Waiting) -> Waiting:
        began = time.time()
        time.sleep(state.get("seconds", 0))
        if "gate" in state:
            open(f"{state['gate']}.reached", "w").close()
        while "gate" in state and not os.path.exists(state["gate"]):
            time.sleep(0.02)
        return {
            "process": os.getpid(),
            "thread": threading.get_ident(),
            "began": began,
            "ended": time.time(),
        }

    async def rest(state: Waiting) -> Waiting:
        return {"rested": True}

    graph = StateGraph(Waiting).add_node("wait", wait).add_node("rest", rest)
    return graph.add_edge(START, "wait").add_edge("wait", "rest")


@wtb_ray.scorer(metrics=["brevity"])
async def brevity(result: Any) -> float:
    """1 for one document, less for more of them."""
    await asyncio.sleep(0)
    return 1 / max(1, len(result.state.get("answer", "").split()))
