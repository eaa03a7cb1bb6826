"""Retriever: Okapi BM25 over stemmed words, indexed by the bm25s library."""

from typing import NamedTuple

import bm25s
import numpy as np
from numpy.typing import NDArray

from wtb_ray.examples.rag import hits, index, text
from wtb_ray.examples.rag.corpus import corpus
from wtb_ray.examples.rag.state import State


class Ranker(NamedTuple):
    """What each word adds to the scores of the chunks that have it."""

    words: dict[str, int]
    starts: NDArray[np.int32]
    chunks: NDArray[np.int64]
    added: NDArray[np.float32]

    def scores(self, query: str) -> NDArray[np.float32]:
        """The score of every chunk; a word that none has adds nothing."""
        total = np.zeros(len(corpus().chunks), dtype=np.float32)
        for term in text.terms(query):
            if (word := self.words.get(term)) is not None:
                of_word = slice(self.starts[word], self.starts[word + 1])
                total[self.chunks[of_word]] += self.added[of_word]
        return total


def bm25(state: State) -> State:
    """Retrieve by term frequency that saturates, chunk length and rarity of the words."""
    return hits.update(state, index.part(state["index"], "bm25", opened).scores(state["query"]))


def built() -> index.Arrays:
    """The scores as the library gives them, words in the order of the alphabet."""
    chunks = [text.terms(chunk.text) for chunk in corpus().chunks]
    words = sorted({term for terms in chunks for term in terms})
    numbers = {word: number for number, word in enumerate(words)}
    ranker = bm25s.BM25(k1=1.2, b=0.6)
    ids = [[numbers[term] for term in terms] for terms in chunks]
    ranker.index((ids, numbers), create_empty_token=False, show_progress=False)
    return {
        "words": index.joined(words),
        "lengths": index.smallest(np.diff(ranker.scores["indptr"])),
        "chunks": index.smallest(ranker.scores["indices"]),
        "added": ranker.scores["data"],
    }


def opened(arrays: index.Arrays) -> Ranker:
    """What `built` has found."""
    return Ranker(
        {word: number for number, word in enumerate(index.split(arrays["words"]))},
        index.starts(arrays["lengths"]),
        arrays["chunks"].astype(np.int64),
        arrays["added"],
    )
