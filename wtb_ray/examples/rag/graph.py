"""The graph: load, expand, retrieve, rewrite while the hits are poor, rerank, answer."""

from langgraph.graph import END, START, StateGraph
from langgraph.types import RetryPolicy

from wtb_ray.examples.rag import queries, rerank
from wtb_ray.examples.rag.bm25 import bm25
from wtb_ray.examples.rag.chat import transient
from wtb_ray.examples.rag.corpus import corpus
from wtb_ray.examples.rag.state import State

POOR = 0.5
"""Coverage below which a query is rewritten."""
REWRITES = 2
"""Rewrites of one query at most."""


def build_graph() -> StateGraph[State]:
    """The pipeline with BM25, the overlap reranker and the extractive answer."""
    graph = StateGraph(State)
    graph.add_node("load", load)
    graph.add_node("expand", queries.expand)
    graph.add_node("retrieve", bm25)
    graph.add_node("rewrite", queries.rewrite)
    graph.add_node("rerank", rerank.overlap)
    # A model behind a network deserves another try; the extractive answer never raises.
    graph.add_node(
        "answer", extractive, retry_policy=RetryPolicy(max_attempts=3, retry_on=transient)
    )
    graph.add_edge(START, "load")
    graph.add_edge("load", "expand")
    graph.add_edge("expand", "retrieve")
    graph.add_conditional_edges("retrieve", judge, ["rewrite", "rerank"])
    graph.add_edge("rewrite", "retrieve")
    graph.add_edge("rerank", "answer")
    graph.add_edge("answer", END)
    return graph


def load(state: State) -> State:
    """Read and chunk the documentation; the process keeps it, the state only says what it is."""
    known = corpus()
    size = {"documents": len(known.documents), "chunks": len(known.chunks)}
    return {"corpus": {**size, "digest": known.digest}}


def judge(state: State) -> str:
    """Where to go with the hits: back with another query, at most twice, or on."""
    poor = state["coverage"] < POOR and state["rewrites"] < REWRITES
    return "rewrite" if poor else "rerank"


def extractive(state: State) -> State:
    """The first candidate is the answer; without candidates it is empty."""
    return {"answer": next(iter(state["candidates"]), "")}
