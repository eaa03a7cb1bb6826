"""Retriever: Okapi BM25 over stemmed words, from the bm25s library."""

import bm25s
import numpy as np

from wtb_ray.examples.rag import hits, text
from wtb_ray.examples.rag.corpus import corpus, once
from wtb_ray.examples.rag.state import State


def bm25(state: State) -> State:
    """Retrieve by term frequency that saturates, chunk length and rarity of the words."""
    ranker = index()
    asked = [term for term in text.terms(state["query"]) if term in ranker.vocab_dict]
    scores = ranker.get_scores(asked) if asked else np.zeros(1, dtype=np.float32)
    return hits.update(state, scores)


@once
def index() -> bm25s.BM25:
    ranker = bm25s.BM25(k1=1.2, b=0.6)
    ranker.index([text.terms(chunk.text) for chunk in corpus().chunks], show_progress=False)
    return ranker
