"""The graph: load, expand, retrieve, rewrite while the hits are poor, rerank, answer."""

import logging

from langgraph.graph import END, START, StateGraph
from langgraph.types import RetryPolicy

from wtb_ray.examples.rag import bm25, index, queries, rerank, vectors
from wtb_ray.examples.rag.chat import transient
from wtb_ray.examples.rag.corpus import corpus, once
from wtb_ray.examples.rag.state import State

log = logging.getLogger(__name__)

POOR = 0.5
"""Coverage below which a query is rewritten."""
REWRITES = 2
"""Rewrites of one query at most."""


def build_graph() -> StateGraph[State]:
    """The pipeline with BM25, the overlap reranker and the extractive answer."""
    graph = StateGraph(State)
    graph.add_node("load", load)
    graph.add_node("expand", queries.expand)
    graph.add_node("retrieve", bm25.bm25)
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
    """Read, chunk and index the documentation.

    The process keeps what it read, the workspace the index, the state only says what they are.
    """
    known = corpus()
    size = {"documents": len(known.documents), "chunks": len(known.chunks)}
    return {"corpus": {**size, "digest": known.digest}, "index": index.written(built())}


@once
def built() -> index.Built:
    """The index of this process's corpus, with a part for each retriever."""
    log.info("indexing %d chunks", len(corpus().chunks))
    return index.packed(
        {
            "bm25": bm25.built(),
            "terms": vectors.built_terms(),
            "words": vectors.built_words(),
        }
    )


def judge(state: State) -> str:
    """Where to go with the hits: back with another query, at most twice, or on."""
    poor = state["coverage"] < POOR and state["rewrites"] < REWRITES
    return "rewrite" if poor else "rerank"


def extractive(state: State) -> State:
    """The first candidate is the answer; without candidates it is empty."""
    return {"answer": next(iter(state["candidates"]), "")}
