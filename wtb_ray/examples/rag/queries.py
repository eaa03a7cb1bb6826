"""Nodes that make the query: out of the question, and out of a query that found little."""

import difflib
import itertools

from wtb_ray.context import params
from wtb_ray.examples.rag import text
from wtb_ray.examples.rag.corpus import Corpus, corpus, once
from wtb_ray.examples.rag.state import State

STRENGTH = 1
"""Synonyms added for each word unless the parameter `strength` says otherwise."""

_SYNONYMS = {
    "array": "list sequence buffer",
    "begin": "start",
    "biggest": "largest maximum",
    "browser": "web url",
    "build": "create construct make",
    "change": "modify set replace",
    "check": "test determine true",
    "clone": "copy duplicate",
    "combine": "merge join",
    "compare": "difference equal",
    "concatenate": "join",
    "convert": "transform encode decode",
    "count": "number",
    "cpu": "processor",
    "create": "make new construct",
    "current": "working present",
    "decode": "deserialize parse",
    "delete": "remove unlink",
    "dictionary": "dict mapping",
    "directory": "folder path",
    "encode": "serialize convert",
    "error": "exception",
    "execute": "run",
    "extract": "get unpack",
    "fetch": "get retrieve",
    "file": "path",
    "find": "search locate",
    "folder": "directory tree",
    "get": "return",
    "hash": "digest",
    "insert": "add",
    "integer": "int number",
    "join": "concatenate",
    "launch": "start run",
    "list": "sequence array",
    "load": "deserialize read",
    "look": "search",
    "make": "create",
    "mean": "average",
    "merge": "combine",
    "object": "instance",
    "order": "sort",
    "parse": "read analyze",
    "pick": "choose choice select",
    "print": "display output write",
    "program": "executable command",
    "random": "pseudo",
    "read": "load",
    "remove": "delete unlink",
    "rename": "move",
    "repeat": "cycle",
    "replace": "substitute sub",
    "return": "get give",
    "reverse": "backward",
    "round": "nearest",
    "run": "execute command",
    "save": "write dump",
    "search": "find match",
    "send": "transmit write",
    "show": "display print",
    "sleep": "suspend delay",
    "smallest": "minimum",
    "sort": "order",
    "split": "separate divide partition",
    "start": "begin launch",
    "stop": "end terminate",
    "string": "str text",
    "text": "string str",
    "thread": "concurrent",
    "turn": "convert",
    "url": "uri address",
    "wait": "block until",
    "whole": "entire tree",
    "write": "save dump",
}
_ADDED = {text.stem(word): others.split() for word, others in _SYNONYMS.items()}


def expand(state: State) -> State:
    """The words of the question that carry meaning, and synonyms of them that docs use."""
    strength = int(params().get("strength", STRENGTH))
    asked = list(dict.fromkeys(text.content(state["question"])))
    return {"asked": asked, "query": _joined(asked, _synonyms(asked, strength)), "rewrites": 0}


def rewrite(state: State) -> State:
    """Another query for what found little: words that no document has are corrected.

    Synonyms are left out, since they blur as often as they help; the second time, so is the half of
    the words that tell least.
    """
    known = corpus()
    asked = list(dict.fromkeys(corrected(known, word) for word in state["asked"]))
    kept = asked if state["rewrites"] == 0 else _telling(known, asked)[: (len(asked) + 1) // 2]
    return {"asked": asked, "query": _joined(kept), "rewrites": state["rewrites"] + 1}


def _telling(known: Corpus, words: list[str]) -> list[str]:
    """The words, the rarest in the corpus first."""
    return sorted(words, key=lambda word: -known.weights.get(text.stem(word), 0.0))


def _synonyms(words: list[str], strength: int) -> list[str]:
    return [other for word in words for other in _ADDED.get(text.stem(word), [])[:strength]]


def _joined(*words: list[str]) -> str:
    return " ".join(dict.fromkeys(itertools.chain(*words)))


def corrected(known: Corpus, word: str) -> str:
    """The word, or the known one most like it if no document has it."""
    if text.stem(word) in known.weights:
        return word
    alike = difflib.get_close_matches(word, vocabulary().get(word[0], []), n=1, cutoff=0.75)
    return alike[0] if alike else word


@once
def vocabulary() -> dict[str, list[str]]:
    """Every word of the corpus by its first letter."""
    found: dict[str, list[str]] = {}
    for word in sorted({word for chunk in corpus().chunks for word in text.words(chunk.text)}):
        found.setdefault(word[0], []).append(word)
    return found
