"""From the scores of chunks to hits: what every retriever shares."""

import numpy as np
from numpy.typing import NDArray

from wtb_ray.context import params
from wtb_ray.examples.rag import text
from wtb_ray.examples.rag.corpus import Corpus, corpus
from wtb_ray.examples.rag.state import Hit, State

DEPTH = 30
"""Hits that a retriever gives unless its parameter `k` says otherwise."""


def update(state: State, scores: NDArray[np.float32]) -> State:
    """The state update of a retriever that gave each chunk a score.

    The hits of a rewritten query replace the earlier ones only if they say more of what is asked.
    """
    known = corpus()
    hits = best(known, scores, int(params().get("k", DEPTH)))
    covered = coverage(known, text.stems(state["asked"]), hits)
    if state["rewrites"] and covered <= state["coverage"]:
        return {"coverage": state["coverage"]}
    return {"hits": hits, "coverage": covered}


def best(known: Corpus, scores: NDArray[np.float32], k: int) -> list[Hit]:
    """The `k` best documents by their best chunk; equal scores in the order of the corpus."""
    pool = min(len(scores), 4 * k)
    likely = np.argpartition(scores, -pool)[-pool:]
    hits: dict[int, float] = {}
    for chunk in likely[np.lexsort((likely, -scores[likely]))]:
        if scores[chunk] <= 0 or len(hits) == k:
            break
        hits.setdefault(known.chunks[chunk].document, float(scores[chunk]))
    return [
        {"name": known.documents[document].name, "score": round(score, 4)}
        for document, score in hits.items()
    ]


def coverage(known: Corpus, asked: list[str], hits: list[Hit], first: int = 3) -> float:
    """The largest weighted share of the terms that one of the first hits contains."""
    shares = [
        share(known, asked, known.terms[known.positions[hit["name"]]]) for hit in hits[:first]
    ]
    return round(max(shares, default=0.0), 4)


def share(known: Corpus, asked: list[str], present: frozenset[str]) -> float:
    """How much of `asked`, by weight, is in `present`; a word that no document has weighs most."""
    total = sum(known.weights.get(term, known.unknown) for term in asked)
    found = sum(known.weights.get(term, known.unknown) for term in asked if term in present)
    return found / total if total else 0.0
