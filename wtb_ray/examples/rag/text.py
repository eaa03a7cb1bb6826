"""Words and sentences: what the corpus, the retrievers and the cases agree on.

Pure functions of their arguments; none depends on hash order or on the process.
"""

import itertools
import re

_COMMON = """
a about all also an and any are as at be been before being but by can cannot could do does did
each etc for from had has have how i if in into is it its may me might more most must my no not of
on one only or other our own same shall should so some such than that the their them then there
these they this those to up us used uses using very want was way we were what when where whether
which while who whose why will with would you your
"""
STOPWORDS = frozenset(_COMMON.split())
"""Words that say nothing of what is asked for."""

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORD = re.compile(r"[a-z]+|[0-9]+")
_END = re.compile(r"(?<=[.!?])\s+(?=[\"'`(A-Z])")
_QUOTED = re.compile(r"[`'\"]*((?:\w+\.)*\w+)(?:\(\))?[`'\"]*")
_SIGNATURE = re.compile(r"^[\w.]+\(.*$|^.*\) ?-> .*$")


def words(text: str) -> list[str]:
    """Lower-case words, `camelCase` and `snake_case` names taken apart."""
    return _WORD.findall(_CAMEL.sub(" ", text).lower())


def stem(word: str) -> str:
    """The word without the endings that a question and a docstring differ in most."""
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    for ending in ("sses", "xes", "ches", "shes"):
        if word.endswith(ending):
            return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        word = word[:-1]
    for ending in ("ing", "ed"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return _undoubled(word[: -len(ending)])
    return word[:-1] if word.endswith("e") and len(word) > 4 else word


def _undoubled(word: str) -> str:
    """`splitt` of splitting becomes `split`; `pass` and `call` stay."""
    doubled = word[-1] == word[-2] and word[-1] not in "lsz"
    stripped = word[:-1] if doubled else word
    return stripped[:-1] if stripped.endswith("e") and len(stripped) > 4 else stripped


def content(text: str) -> list[str]:
    """The words that carry meaning, in their order, repeats kept."""
    return [word for word in words(text) if word not in STOPWORDS and len(word) > 1]


def stems(found: list[str]) -> list[str]:
    return [stem(word) for word in found]


def terms(text: str) -> list[str]:
    """The stems of the words that carry meaning: what is indexed and searched."""
    return stems(content(text))


def normal(text: str) -> str:
    """The text as bare words, to compare sentences across line breaks and punctuation."""
    return " ".join(re.findall(r"\w+", text.lower()))


def without_signature(doc: str) -> str:
    """The docstring without the call forms that C functions put on its first lines."""
    lines = doc.strip().splitlines()
    while lines and _SIGNATURE.match(lines[0]):
        lines.pop(0)
    return "\n".join(lines).strip()


def first_sentence(doc: str) -> str:
    """The docstring's first sentence, exactly as it stands at its start."""
    return _END.split(doc.split("\n\n", 1)[0], maxsplit=1)[0]


def without_name(sentence: str, name: str) -> str:
    """The sentence with the object's name, however qualified, taken out."""
    last = name.rsplit(".", 1)[-1].lower()

    def keep(match: re.Match[str]) -> str:
        return " " if match[1].rsplit(".", 1)[-1].lower() == last else match[0]

    bare = " ".join(_QUOTED.sub(keep, sentence).split())
    return re.sub(r"\s+([.,;:!?])", r"\1", bare)


def paragraphs(doc: str, limit: int) -> list[str]:
    """The docstring in pieces of about `limit` words, cut between paragraphs where there are some."""
    pieces: list[list[str]] = [[]]
    for paragraph in doc.split("\n\n"):
        split = paragraph.split()
        for start in range(0, len(split), limit):
            part = split[start : start + limit]
            if pieces[-1] and len(pieces[-1]) + len(part) > limit:
                pieces.append([])
            pieces[-1].extend(part)
    return [" ".join(piece) for piece in pieces]


def pairs(text: str) -> list[str]:
    """The terms and each two that stand together."""
    found = terms(text)
    return found + [f"{left} {right}" for left, right in itertools.pairwise(found)]
