"""The documentation of the standard library of the Python that runs, as an indexable corpus.

Reads every public module, takes each documented function, class and method once under its shortest
public name, and cuts its docstring into chunks. Some objects are held out: their first sentence is
in no chunk, so that it can be asked as a question. The same interpreter always gives the same
corpus, in any process: order and choice depend on names alone.

Built once per process, on first use. Imports only the standard library's own modules, and none that
opens something, prints, or needs a display.
"""

import functools
import hashlib
import importlib
import inspect
import math
import pkgutil
import re
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from wtb_ray.examples.rag import text

Built = TypeVar("Built")

HELD_OUT = 200
HELD_OUT_PER_MODULE = 8
CHUNK_WORDS = 90

# Importing these acts, needs a display, or brings only tests and tables.
_ACTING = """
antigravity encodings ensurepip idlelib pydoc_data readline rlcompleter test this tkinter turtle
turtledemo
"""
_PLATFORM = "genericpath nt ntpath posix posixpath"
"""The platform's side of `os` and `os.path`."""
# Gone from later versions: without them the corpus is nearly the same on each Python.
_REMOVED = """
aifc asynchat asyncore audioop cgi cgitb chunk crypt distutils imghdr imp lib2to3 mailcap msilib nis
nntplib ossaudiodev pipes smtpd sndhdr spwd sre_compile sre_constants sre_parse sunau telnetlib uu
xdrlib
"""
_HIDDEN = re.compile(r"^_|hook$|^(showwarning|isgenerator)$")
"""Private names, and those that pytest, IPython or Ray's Cython code put something else under."""
_LEFT_OUT = frozenset(f"{_ACTING} {_PLATFORM} {_REMOVED}".split())


class Document(NamedTuple):
    """One documented object."""

    name: str
    """Qualified name; built-ins have no module in front."""
    kind: str
    """`class`, `function` or `method`."""
    parameters: str
    """Parameter names, without the defaults: their text may hold memory addresses."""
    doc: str
    """The docstring as it is indexed: without a held-out sentence."""


class Chunk(NamedTuple):
    """A piece of a document, the unit that is indexed."""

    document: int
    text: str


class Question(NamedTuple):
    """A held-out sentence with the object's name taken out, and the object."""

    name: str
    sentence: str
    question: str


class Corpus(NamedTuple):
    """Documents, chunks, held-out questions, and what ranking needs to know of the words."""

    documents: tuple[Document, ...]
    chunks: tuple[Chunk, ...]
    held_out: tuple[Question, ...]
    positions: dict[str, int]
    """Name to index in `documents`."""
    terms: tuple[frozenset[str], ...]
    """By document: the terms of its name, parameters and text."""
    weights: dict[str, float]
    """Inverse document frequency of every term."""
    unknown: float
    """The weight of a term that no document has: that of the rarest."""
    digest: str

    def document(self, name: str) -> Document:
        return self.documents[self.positions[name]]


def once(build: Callable[[], Built]) -> Callable[[], Built]:
    """`build` run by its first caller in this process; callers in other threads wait for it."""
    lock = threading.Lock()
    built = functools.cache(build)

    @functools.wraps(build)
    def get() -> Built:
        with lock:
            return built()

    return get


@once
def corpus() -> Corpus:
    """The corpus of this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = sorted(_documents(), key=lambda document: document.name)
    held_out = _hold_out(found)
    asked = {question.name: question.sentence for question in held_out}
    documents = tuple(_without(document, asked.get(document.name, "")) for document in found)
    chunks = tuple(_chunks(documents))
    of_documents = tuple(_terms(document) for document in documents)
    weights = _weights(of_documents)
    return Corpus(
        documents,
        chunks,
        held_out,
        {document.name: index for index, document in enumerate(documents)},
        of_documents,
        weights,
        max(weights.values()),
        hashlib.sha256("\0".join(chunk.text for chunk in chunks).encode()).hexdigest(),
    )


def _without(document: Document, sentence: str) -> Document:
    return document._replace(doc=document.doc[len(sentence) :].strip())


def _terms(document: Document) -> frozenset[str]:
    return frozenset(text.terms(f"{document.name} {document.parameters} {document.doc}"))


def _weights(documents: Sequence[frozenset[str]]) -> dict[str, float]:
    counts = Counter(term for terms in documents for term in terms)
    return {term: math.log(1 + len(documents) / n) for term, n in sorted(counts.items())}


def _chunks(documents: Sequence[Document]) -> Iterator[Chunk]:
    """Every chunk starts with the name, so that each can be found by it."""
    for index, document in enumerate(documents):
        for number, piece in enumerate(text.paragraphs(document.doc, CHUNK_WORDS)):
            parameters = f" {document.parameters}" if number == 0 else ""
            yield Chunk(index, f"{document.name}{parameters} {piece}")


def _hold_out(documents: Sequence[Document]) -> tuple[Question, ...]:
    """The questions, in the order of their names' digests: spread evenly and always the same."""
    others = _Others(documents)
    modules: Counter[str] = Counter()
    chosen: list[Question] = []
    for document in sorted(documents, key=_order):
        module = document.name.split(".", 1)[0]
        question = _question(document)
        if modules[module] < HELD_OUT_PER_MODULE and question and not others.answer(question):
            modules[module] += 1
            chosen.append(question)
        if len(chosen) == HELD_OUT:
            break
    return tuple(chosen)


def _order(document: Document) -> str:
    return hashlib.sha256(document.name.encode()).hexdigest()


def _question(document: Document) -> Question | None:
    """The first sentence as a question, if it is prose of a length that people ask in.

    What remains of the documentation must be a text, and say at least half of what is asked:
    nobody could find the object otherwise.
    """
    sentence = text.first_sentence(document.doc)
    if not sentence.endswith(".") or re.search(r"->|>>>|[{}=|]", sentence):
        return None
    question = text.without_name(sentence, document.name)
    asked = set(text.terms(question))
    rest = _without(document, sentence)
    if not 6 <= len(sentence.split()) <= 40 or len(asked) < 4 or len(rest.doc.split()) < 15:
        return None
    if 2 * len(asked & _terms(rest)) < len(asked):
        return None
    return Question(document.name, sentence, question)


class _Others:
    """What the other documents say, to leave out questions that they answer as well."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self.text = "\n".join(text.normal(document.doc) for document in documents)
        self.terms = {document.name: _terms(document) for document in documents}
        self.holders: dict[str, list[str]] = {}
        for name, terms in self.terms.items():
            for term in terms:
                self.holders.setdefault(term, []).append(name)

    def answer(self, question: Question) -> bool:
        """Whether the sentence stands elsewhere, or another object has four fifths of its terms."""
        if self.text.count(text.normal(question.sentence)) != 1:
            return True
        asked = set(text.terms(question.question))
        enough = 0.8 * len(asked)
        rarest = sorted(asked, key=lambda term: (len(self.holders[term]), term))
        # Whoever has four fifths of the terms has one of any fifth of them and one more.
        near = {
            name
            for term in rarest[: len(asked) - math.ceil(enough) + 1]
            for name in self.holders[term]
        }
        return any(len(asked & self.terms[name]) >= enough for name in near - {question.name})


def _documents() -> Iterator[Document]:
    """Each documented object once, under the name with the fewest dots.

    A method that repeats a function's text under the same last name is that function to a reader:
    `random.Random.choice` is `random.choice`.
    """
    told: set[tuple[str, str]] = set()
    for document in sorted(_objects(), key=lambda document: document.name.count(".")):
        last = document.name.rsplit(".", 1)[-1]
        if (last, document.doc) not in told:
            told.add((last, document.doc))
            yield document


def _objects() -> Iterator[Document]:
    seen: set[int] = set()
    modules = _modules()
    for module in sorted(modules, key=lambda name: (name != "builtins", name.count("."), name)):
        for name, value in _public(module, modules[module]):
            if id(value) not in seen:
                seen.add(id(value))
                yield from _of(name, value)


def _of(name: str, value: Any) -> Iterator[Document]:
    kind = "class" if inspect.isclass(value) else "function"
    if doc := _doc(value):
        yield Document(name, kind, _parameters(value), doc)
    if inspect.isclass(value):
        for member, raw in sorted(vars(value).items()):
            method = raw.__func__ if isinstance(raw, classmethod | staticmethod) else raw
            if not member.startswith("_") and inspect.isroutine(method) and (doc := _doc(method)):
                yield Document(f"{name}.{member}", "method", _parameters(method), doc)


def _doc(value: Any) -> str:
    doc = value.__doc__
    return text.without_signature(inspect.cleandoc(doc)) if isinstance(doc, str) else ""


def _parameters(value: Any) -> str:
    """Read from the code or the text signature: `inspect.signature` would evaluate defaults."""
    maker = vars(value).get("__init__") if inspect.isclass(value) else inspect.unwrap(value)
    if code := getattr(maker, "__code__", None):
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    else:
        names = re.findall(r"[(,] ?\*{0,2}(\w+)", getattr(value, "__text_signature__", None) or "")
    return " ".join(name for name in names if name not in ("self", "cls"))


def _public(module: str, value: ModuleType) -> Iterator[tuple[str, Any]]:
    """The module's functions and classes: by `__all__`, or else those it says are its own."""
    declared = getattr(value, "__all__", None)
    own = (module, f"_{module}")
    names = {name: getattr(value, name, None) for name in declared or list(vars(value))}
    for name in sorted(names, key=lambda name: (_alias(name, names[name]), name)):
        found = names[name]
        home = getattr(found, "__module__", None)
        if not (inspect.isclass(found) or inspect.isroutine(found)) or _HIDDEN.search(name):
            continue
        if (declared is None and home not in own) or not _standard(home):
            continue
        yield name if module == "builtins" else f"{module}.{name}", found


def _alias(name: str, value: Any) -> bool:
    """Whether the object calls itself otherwise, as `array.ArrayType` does."""
    return getattr(value, "__name__", name) != name


def _standard(home: str | None) -> bool:
    """Whether the object is the library's own, and not put there by another package."""
    return home is None or home.split(".", 1)[0] in sys.stdlib_module_names


def _modules() -> dict[str, ModuleType]:
    """The public modules of the standard library that this build of Python has."""
    modules: dict[str, ModuleType] = {}
    for name in sorted(sys.stdlib_module_names - _LEFT_OUT):
        _visit(name, modules)
    return {**modules, "os.path": sys.modules["os.path"]}


def _visit(name: str, modules: dict[str, ModuleType]) -> None:
    last = name.rsplit(".", 1)[-1]
    if last.startswith("_") or last in ("test", "tests"):
        return
    try:
        module = importlib.import_module(name)
    except ImportError:
        return  # a module of another platform, or an optional one left out of this build
    modules[name] = module
    for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
        _visit(f"{name}.{found.name}", modules)
