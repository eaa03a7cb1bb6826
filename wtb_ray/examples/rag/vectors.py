"""Retrievers in vector spaces, from scikit-learn: words and pairs of words, or pieces of words."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import TfidfVectorizer

from wtb_ray.examples.rag import hits, text
from wtb_ray.examples.rag.corpus import corpus, once
from wtb_ray.examples.rag.state import State


class Space(NamedTuple):
    """A vectorizer and the chunks in its space, a row for each feature.

    A query has few features, so the product with this transposed matrix reads only their rows.
    """

    vectorizer: TfidfVectorizer
    chunks: csr_array

    def scores(self, query: str) -> NDArray[np.float32]:
        """The cosine of the query with every chunk."""
        product = csr_array(self.vectorizer.transform([query])) @ self.chunks
        return np.asarray(product.todense(), dtype=np.float32).ravel()


def tfidf(state: State) -> State:
    """Retrieve by the cosine of TF-IDF vectors of stemmed words and neighbouring pairs."""
    return hits.update(state, tfidf_space().scores(state["query"]))


def char(state: State) -> State:
    """Retrieve by the cosine of TF-IDF vectors of character n-grams: blind to word forms."""
    return hits.update(state, char_space().scores(state["query"]))


@once
def tfidf_space() -> Space:
    return _space(TfidfVectorizer(analyzer=text.pairs, sublinear_tf=True, dtype=np.float32))


@once
def char_space() -> Space:
    return _space(
        TfidfVectorizer(
            analyzer="char_wb", ngram_range=(3, 4), sublinear_tf=True, min_df=2, dtype=np.float32
        )
    )


def _space(vectorizer: TfidfVectorizer) -> Space:
    rows = vectorizer.fit_transform([chunk.text for chunk in corpus().chunks])
    return Space(vectorizer, csr_array(rows.T))
