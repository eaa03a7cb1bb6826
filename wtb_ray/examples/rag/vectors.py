"""Retrievers in vector spaces, from scikit-learn: words and pairs of words, or pieces of words."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

from wtb_ray.examples.rag import hits, index, text
from wtb_ray.examples.rag.corpus import corpus
from wtb_ray.examples.rag.state import State


class Space(NamedTuple):
    """What counts a text's features, what weighs them, and the chunks, a row for each feature.

    A query has few features, so the product with this transposed matrix reads only their rows.
    """

    counter: CountVectorizer
    weights: TfidfTransformer
    chunks: csr_array

    def scores(self, query: str) -> NDArray[np.float32]:
        """The cosine of the query with every chunk."""
        asked = self.weights.transform(self.counter.transform([query]))
        return np.asarray((csr_array(asked) @ self.chunks).todense(), dtype=np.float32).ravel()


def tfidf(state: State) -> State:
    """Retrieve by the cosine of TF-IDF vectors of stemmed words and neighbouring pairs."""
    space = index.part(state["index"], "terms", of_terms)
    return hits.update(state, space.scores(state["query"]))


def char(state: State) -> State:
    """Retrieve by the cosine of TF-IDF vectors of character n-grams: blind to word forms."""
    space = index.part(state["index"], "words", of_pieces)
    return hits.update(state, space.scores(state["query"]))


def built_terms() -> index.Arrays:
    """How often each chunk has each term and each pair of them."""
    return _built(_counter_of_terms())


def built_words() -> index.Arrays:
    """How often each chunk has each word as it is written: its pieces follow from the words."""
    return _built(CountVectorizer(analyzer=_written, dtype=np.float32))


def of_terms(arrays: index.Arrays) -> Space:
    """The space of `built_terms`."""
    terms, counts = _opened(arrays)
    return _space(_counter_of_terms(vocabulary=terms), counts)


def of_pieces(arrays: index.Arrays) -> Space:
    """The space of the pieces, of three and four characters, that several chunks have."""
    words, counts = _opened(arrays)
    pieces = _counter_of_pieces()
    of_chunks = csc_array(counts @ csr_array(pieces.fit_transform(words)))
    kept = np.flatnonzero(np.diff(of_chunks.indptr) > 1)
    vocabulary = pieces.get_feature_names_out()[kept]
    return _space(_counter_of_pieces(vocabulary=vocabulary), csr_array(of_chunks[:, kept]))


def _counter_of_terms(vocabulary: Sequence[str] | None = None) -> CountVectorizer:
    return CountVectorizer(analyzer=text.pairs, vocabulary=vocabulary, dtype=np.float32)


def _counter_of_pieces(vocabulary: Sequence[str] | None = None) -> CountVectorizer:
    return CountVectorizer(
        analyzer="char_wb", ngram_range=(3, 4), vocabulary=vocabulary, dtype=np.float32
    )


def _written(chunk: str) -> list[str]:
    return chunk.lower().split()


def _built(counter: CountVectorizer) -> index.Arrays:
    counts = csc_array(counter.fit_transform([chunk.text for chunk in corpus().chunks]))
    counts.sort_indices()
    return {
        "features": index.joined(list(counter.get_feature_names_out())),
        "lengths": index.smallest(np.diff(counts.indptr)),
        "chunks": index.smallest(counts.indices),
        "counts": index.smallest(counts.data),
    }


def _opened(arrays: index.Arrays) -> tuple[list[str], csr_array]:
    """The features, and how often each chunk has each."""
    features = index.split(arrays["features"])
    counted = (
        arrays["counts"].astype(np.float32),
        arrays["chunks"].astype(np.int32),
        index.starts(arrays["lengths"]),
    )
    shape = (len(corpus().chunks), len(features))
    return features, csr_array(csc_array(counted, shape))


def _space(counter: CountVectorizer, counts: csr_array) -> Space:
    weights = TfidfTransformer(sublinear_tf=True)
    weighed = weights.fit_transform(counts)
    return Space(counter, weights, csr_array(weighed.T))
