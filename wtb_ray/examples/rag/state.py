"""The state of the pipeline: names, scores and short texts, never the corpus."""

from typing import Any, TypedDict


class Hit(TypedDict):
    """A retrieved object and the retriever's score of its best chunk."""

    name: str
    score: float


class IndexFile(TypedDict):
    """Where the index lies in the workspace, in the form that may be stored, and its SHA-256."""

    ref: str
    digest: str


class State(TypedDict, total=False):
    """What each super-step stores."""

    question: str
    corpus: dict[str, Any]
    """Size and digest of what was searched."""
    index: IndexFile
    """What is searched in."""
    asked: list[str]
    """The question's words that carry meaning; rewriting corrects those that no document has."""
    query: str
    """What is retrieved with: these words, and what expanding and rewriting made of them."""
    hits: list[Hit]
    coverage: float
    """How much of what is asked, by weight of the words, one of the best hits speaks of; 0 to 1."""
    rewrites: int
    candidates: list[str]
    """Names in the order of the reranker."""
    context: list[str]
    """What a model may read of the first candidates."""
    answer: str
    """Qualified name of the object that answers the question."""
