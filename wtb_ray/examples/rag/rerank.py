"""Rerankers: two opinions on which of the hits answers the question."""

from collections.abc import Callable

from wtb_ray.examples.rag import hits, text
from wtb_ray.examples.rag.corpus import Corpus, Document, corpus
from wtb_ray.examples.rag.state import State

CANDIDATES = 10
CONTEXT = 5
CONTEXT_CHARACTERS = 160

_PRIOR = {"function": 0.18, "class": 0.09, "method": 0.0}
"""What people ask for more often, before anything is known of the question."""

Judge = Callable[[Corpus, list[str], int], float]
"""What a reranker adds to the retriever's score, from the question's terms and the document."""


def overlap(state: State) -> State:
    """Prefer the object whose name and text contain most of the question."""
    return _ranked(state, _overlap)


def name(state: State) -> State:
    """Prefer the object whose name says what is asked for, functions before methods."""
    return _ranked(state, _name)


def _overlap(known: Corpus, asked: list[str], position: int) -> float:
    return hits.share(known, asked, known.terms[position])


def _name(known: Corpus, asked: list[str], position: int) -> float:
    document = known.documents[position]
    named = frozenset(text.terms(document.name))
    spoken = len(named.intersection(asked)) / len(named) if named else 0.0
    depth = 0.02 * document.name.count(".")
    told = hits.share(known, asked, named)
    return 0.3 * spoken + 0.5 * told + _PRIOR[document.kind] - depth


def _ranked(state: State, judge: Judge) -> State:
    known = corpus()
    asked = text.stems(state["asked"])
    found = state["hits"]
    top = max((hit["score"] for hit in found), default=1.0)

    def score(number: int) -> float:
        position = known.positions[found[number]["name"]]
        return found[number]["score"] / top + judge(known, asked, position)

    order = sorted(range(len(found)), key=lambda number: (-score(number), number))
    candidates = [found[number]["name"] for number in order[:CANDIDATES]]
    context = [_context(known.document(each)) for each in candidates[:CONTEXT]]
    return {"candidates": candidates, "context": context}


def _context(document: Document) -> str:
    call = f"{document.name}({', '.join(document.parameters.split())})"
    return f"{call}: {' '.join(document.doc.split())[:CONTEXT_CHARACTERS]}"
