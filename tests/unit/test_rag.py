"""The RAG example, run by plain LangGraph: its corpus, its cases, its variants and its loop."""

import hashlib
import io
import json
import pydoc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import TfidfVectorizer

from wtb_ray import bindings, entries
from wtb_ray.context import WORKSPACE_ENV, Context, Workspace, entered
from wtb_ray.errors import NodeFailed
from wtb_ray.examples import rag
from wtb_ray.examples.rag import bm25, demo, graph, index, queries, rerank, text, vectors
from wtb_ray.examples.rag.corpus import Corpus, corpus
from wtb_ray.model import Case, ScorerSpec
from wtb_ray.scoring import CellOutcome, score

BINDINGS = {f"{binding['retrieve']}+{binding['rerank']}": binding for binding in rag.matrix()}
ONCE_THROUGH = ["load", "expand", "retrieve", "rerank", "answer"]


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The workspace of runs outside the bench."""
    made = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(WORKSPACE_ENV, str(made))
        yield made


@pytest.fixture(scope="module")
def known() -> Corpus:
    return corpus()


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return rag.cases()


def compiled(binding: dict[str, str]) -> entries.CompiledGraph:
    """The graph with the variants of a binding, put in as the bench does it."""
    entry = entries.load_entry(rag.project().entry)
    chosen = bindings.implementations(rag.project(), binding)
    found = {node: entries.load_implementation(path, field=node) for node, path in chosen.items()}
    made: entries.CompiledGraph = entries.bind(entry.builder, found).compile(InMemorySaver())
    return made


async def answered(app: entries.CompiledGraph, question: str) -> dict[str, Any]:
    config: Any = {"configurable": {"thread_id": question}}
    state: dict[str, Any] = await app.ainvoke({"question": question}, config)
    return state


async def path_of(app: entries.CompiledGraph, question: str) -> tuple[list[str], dict[str, Any]]:
    """The nodes that ran, and the final state."""
    config: Any = {"configurable": {"thread_id": question}}
    stream = app.astream({"question": question}, config, stream_mode="updates")
    nodes = [node async for update in stream for node in update]
    return nodes, app.get_state(config).values


# The corpus


def test_corpus_holds_thousands_of_objects_under_their_public_names(known: Corpus) -> None:
    assert len(known.documents) > 4000
    assert len(known.positions) == len(known.documents)
    assert {"json.dumps", "os.path.join", "str.split", "sorted", "pathlib.Path"} <= set(
        known.positions
    )
    assert {document.kind for document in known.documents} == {"class", "function", "method"}
    assert not any("0x" in document.parameters for document in known.documents)


def test_corpus_takes_an_object_once(known: Corpus) -> None:
    assert "random.choice" in known.positions
    assert "random.Random.choice" not in known.positions
    assert "array.ArrayType" not in known.positions
    assert not [name for name in known.positions if name.startswith(("posixpath.", "tkinter."))]


def test_corpus_is_built_once_for_all_threads() -> None:
    with ThreadPoolExecutor(8) as threads:
        assert len({id(each.result()) for each in [threads.submit(corpus) for _ in range(16)]}) == 1


def test_every_chunk_names_its_object(known: Corpus) -> None:
    assert len(known.chunks) > len(known.documents) * 0.9
    for chunk in known.chunks:
        assert chunk.text.startswith(known.documents[chunk.document].name)
        assert len(chunk.text.split()) <= 150


def test_held_out_sentences_are_in_the_docs_but_not_in_the_index(known: Corpus) -> None:
    indexed = "\n".join(text.normal(chunk.text) for chunk in known.chunks)
    for question in known.held_out:
        sentence = text.normal(question.sentence)
        assert sentence in text.normal(pydoc.locate(question.name).__doc__ or "")
        assert sentence not in indexed
        assert sentence not in text.normal(known.document(question.name).doc)


def test_a_held_out_question_does_not_say_the_name(known: Corpus) -> None:
    for question in known.held_out:
        last = question.name.rsplit(".", 1)[-1].lower()
        assert last not in text.normal(question.question).split()
        assert len(known.document(question.name).doc.split()) >= 15


# The cases


def test_cases_are_many_distinct_and_plain(cases: list[Case]) -> None:
    kinds = [case.metadata["kind"] for case in cases]
    assert kinds.count("docs") >= 200
    assert kinds.count("natural") >= 40
    assert len({case.id for case in cases}) == len(cases)
    assert len({case.input["question"] for case in cases}) == len(cases)
    assert Case.model_validate_json(cases[0].model_dump_json()) == cases[0]


def test_every_expected_answer_exists(cases: list[Case], known: Corpus) -> None:
    for case in cases:
        assert callable(pydoc.locate(case.expected)), case.expected
        assert case.expected in known.positions


def test_natural_questions_ask_for_objects_that_keep_their_first_sentence(
    cases: list[Case], known: Corpus
) -> None:
    held_out = {question.name for question in known.held_out}
    natural = {case.expected for case in cases if case.metadata["kind"] == "natural"}
    assert not held_out & natural


# Words and sentences


@pytest.mark.parametrize(
    ("word", "stem"),
    [
        ("dictionaries", "dictionary"),
        ("splitting", "split"),
        ("splits", "split"),
        ("removed", "remov"),
        ("remove", "remov"),
        ("classes", "class"),
        ("class", "class"),
        ("status", "status"),
        ("calling", "call"),
        ("string", "str"),
        ("matches", "match"),
    ],
)
def test_stems(word: str, stem: str) -> None:
    assert text.stem(word) == stem


def test_names_are_taken_apart() -> None:
    assert text.words("xml.etree.ElementTree.parse_XMLFile") == [
        *("xml", "etree", "element", "tree", "parse", "xml", "file")
    ]


def test_the_first_sentence_ends_before_the_next_one() -> None:
    doc = "Join a and b,\ne.g. paths. Then more.\n\nAnd more."
    assert text.first_sentence(doc) == "Join a and b,\ne.g. paths."


def test_call_forms_above_a_docstring_are_left_out() -> None:
    doc = "dict() -> new empty dictionary\ndict(mapping) -> new dictionary\nMake one."
    assert text.without_signature(doc) == "Make one."


def test_the_name_is_taken_out_of_a_sentence() -> None:
    sentence = (
        "Copy: `copy.deepcopy` and deepcopy() do a deep copy, deepcopying all, unlike x.DeepCopy."
    )
    assert text.without_name(sentence, "copy.deepcopy") == (
        "Copy: and do a deep copy, deepcopying all, unlike."
    )


def test_long_docstrings_are_cut_between_paragraphs() -> None:
    assert text.paragraphs("a b c\n\nd e\n\nf g h i j", 4) == ["a b c", "d e", "f g h i", "j"]


# The graph


async def test_a_question_runs_straight_through() -> None:
    nodes, state = await path_of(compiled({}), "How can I merge several sorted inputs?")
    assert nodes == ONCE_THROUGH
    assert state["answer"] == state["candidates"][0] == "heapq.merge"
    assert state["corpus"]["digest"] == corpus().digest


async def test_a_misspelled_question_is_corrected_and_retrieved_again() -> None:
    app = compiled({"retrieve": "bm25", "rerank": "overlap"})
    nodes, state = await path_of(app, "What removes a direktory tree rekursively?")
    assert nodes == [*ONCE_THROUGH[:3], "rewrite", *ONCE_THROUGH[2:]]
    assert state["asked"] == ["removes", "directory", "tree", "recursively"]
    assert state["answer"] == "shutil.rmtree"


@pytest.mark.parametrize("question", ["frobnicate the quux", "???", ""])
async def test_a_hopeless_question_ends_after_two_rewrites(question: str) -> None:
    for binding in BINDINGS.values():
        nodes, state = await path_of(compiled(binding), question)
        assert nodes.count("rewrite") == state["rewrites"] == graph.REWRITES
        assert state["answer"] in ("", *state["candidates"])


def test_a_rewritten_query_that_finds_less_changes_nothing() -> None:
    asked: Any = {"question": "", "asked": ["zebra", "crossing"], "query": "zebra"}
    worse = bm25.bm25({**asked, **graph.load({}), "rewrites": 1, "coverage": 0.4})
    assert worse == {"coverage": 0.4}


@pytest.fixture(scope="module")
async def states(cases: list[Case]) -> dict[str, list[dict[str, Any]]]:
    """The final states of every variant on every fourth case."""
    found = {}
    for name, binding in BINDINGS.items():
        app = compiled(binding)
        found[name] = [await answered(app, case.input["question"]) for case in cases[::4]]
    return found


def right(states: list[dict[str, Any]], cases: list[Case]) -> float:
    pairs = list(zip(states, cases[::4], strict=True))
    return sum(bool(state["answer"] == case.expected) for state, case in pairs) / len(pairs)


def test_the_variants_answer_differently(states: dict[str, list[dict[str, Any]]]) -> None:
    answers = {name: [state["answer"] for state in found] for name, found in states.items()}
    assert len(answers) == 6
    for one, other in combinations(answers, 2):
        differ = sum(a != b for a, b in zip(answers[one], answers[other], strict=True))
        assert differ >= 0.1 * len(answers[one]), (one, other)


def test_the_variants_are_sensible_and_not_equally_good(
    states: dict[str, list[dict[str, Any]]], cases: list[Case]
) -> None:
    accuracy = {name: right(found, cases) for name, found in states.items()}
    assert min(accuracy.values()) > 0.2, accuracy
    assert 0.45 < max(accuracy.values()) < 0.9, accuracy
    assert max(accuracy.values()) - min(accuracy.values()) > 0.1, accuracy
    assert accuracy["bm25+overlap"] > accuracy["char+name"], accuracy


def test_states_are_small_and_plain(states: dict[str, list[dict[str, Any]]]) -> None:
    serde = JsonPlusSerializer()
    for state in [state for found in states.values() for state in found]:
        assert json.loads(json.dumps(state)) == state
        assert serde.loads_typed(serde.dumps_typed(state)) == state
        assert len(json.dumps(state)) < 6000


def test_threads_do_not_disturb_each_other(
    states: dict[str, list[dict[str, Any]]], cases: list[Case]
) -> None:
    for name in ("bm25+overlap", "tfidf+overlap", "char+name"):
        app = compiled(BINDINGS[name])

        def run(case: Case, app: entries.CompiledGraph = app) -> str:
            config: Any = {"configurable": {"thread_id": case.id}}
            return str(app.invoke({"question": case.input["question"]}, config)["answer"])

        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(run, cases[::16])) == [
                state["answer"] for state in states[name][::4]
            ]


# Parameters


async def test_strength_of_expanding_is_a_parameter() -> None:
    said = {}
    for name, variant in rag.project().variants["expand"].items():
        with entered(Context("e", {"expand": variant.params}, "")):
            stream = compiled({}).astream(
                {"question": "How do I delete a file?"},
                {"configurable": {"thread_id": name}},
                stream_mode="updates",
            )
            updates = [update async for update in stream]
            said[name] = updates[1]["expand"]["query"].split()
    assert said == {"plain": ["delete", "file"], "wide": ["delete", "file", *said["wide"][2:]]}
    assert {"remove", "unlink"} <= set(said["wide"])


async def test_number_of_hits_is_a_parameter() -> None:
    with entered(Context("e", {"retrieve": {"k": 3}}, "")):
        state = await answered(compiled({"retrieve": "tfidf"}), "Copy a file with its metadata")
    assert len(state["hits"]) == len(state["candidates"]) == 3


# The project


def test_every_variant_of_the_project_can_be_bound() -> None:
    spec = rag.project()
    info = entries.info(entries.load_entry(spec.entry))
    assert {node.name for node in info.nodes} == {*ONCE_THROUGH, "rewrite"}
    assert ("retrieve", "rewrite") in info.edges
    for node, variants in spec.variants.items():
        for name in variants:
            bindings.check(spec, info, {}, {node: name})
            assert compiled({node: name})
    assert spec.version() == rag.project().version()


def test_the_matrix_is_three_by_two() -> None:
    assert len(rag.matrix()) == len(BINDINGS) == 6
    assert {binding["retrieve"] for binding in rag.matrix()} == set(demo.RETRIEVERS)
    assert {binding["rerank"] for binding in rag.matrix()} == set(demo.RERANKERS)


async def scores(spec: ScorerSpec, case: Case, state: dict[str, Any]) -> dict[str, float | None]:
    found = await score(spec, CellOutcome(case=case, state=state, steps=[], latency_ms=1.0))
    return {each.metric: each.value for each in found}


async def test_the_scorers_judge_answer_and_candidates(cases: list[Case]) -> None:
    case = cases[0]
    state = {"answer": "sorted", "candidates": ["sorted", case.expected]}
    found: dict[str, float | None] = {}
    for spec in rag.scorers():
        found |= await scores(spec, case, state)
    assert found == {"exact": 0.0, "mrr": 0.5, "recall_at_5": 1.0}


# Nodes by themselves


def test_the_index_is_built_once_and_opened_once(folder: Path, tmp_path: Path) -> None:
    assert graph.built() is graph.built()
    first = graph.load({})["index"]
    opened = index.part(first, "words", vectors.of_pieces)
    with entered(Context("e", {}, "", Workspace(str(tmp_path)))):
        second = graph.load({})["index"]
        assert index.part(second, "words", vectors.of_pieces) is opened
    assert first == second == {"ref": "workspace:index.npz", "digest": graph.built().digest}
    assert (folder / "index.npz").read_bytes() == (tmp_path / "index.npz").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["index.npz"]


def test_an_opened_index_scores_as_the_libraries_do(known: Corpus) -> None:
    file = graph.load({})["index"]
    texts = [chunk.text for chunk in known.chunks]
    ranker = bm25s.BM25(k1=1.2, b=0.6)
    ranker.index([text.terms(each) for each in texts], show_progress=False)
    words = TfidfVectorizer(analyzer=text.pairs, sublinear_tf=True, dtype=np.float32)
    pieces = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(3, 4), sublinear_tf=True, min_df=2, dtype=np.float32
    )
    spaces: list[tuple[TfidfVectorizer, vectors.Space]] = [
        (words, index.part(file, "terms", vectors.of_terms)),
        (pieces, index.part(file, "words", vectors.of_pieces)),
    ]
    query = "remove a directory tree, but not its links"
    scores = index.part(file, "bm25", bm25.opened).scores(query)
    assert np.array_equal(scores, ranker.get_scores(text.terms(query)))
    for vectorizer, space in spaces:
        chunks = csr_array(vectorizer.fit_transform(texts))
        wanted = (csr_array(vectorizer.transform([query])) @ chunks.T).todense()
        assert np.array_equal(space.scores(query), np.asarray(wanted).ravel())


def test_another_file_than_the_one_that_was_built_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.npz").write_bytes(b"something else")
    other: Any = {"ref": "workspace:index.npz", "digest": "0" * 64}
    with entered(Context("e", {}, "", Workspace(str(tmp_path)))):
        with pytest.raises(NodeFailed, match="is not the index that was built"):
            index.part(other, "bm25", bm25.opened)
        (tmp_path / "index.npz").unlink()
        with pytest.raises(FileNotFoundError):
            index.part(other, "bm25", bm25.opened)


def test_the_index_of_another_corpus_is_refused(tmp_path: Path) -> None:
    with entered(Context("e", {}, "", Workspace(str(tmp_path)))):
        with np.load(io.BytesIO(graph.built().data)) as arrays:
            changed = {**arrays, "corpus": np.array("0" * 64)}
        np.savez(tmp_path / "index.npz", **changed)
        found = hashlib.sha256((tmp_path / "index.npz").read_bytes()).hexdigest()
        with pytest.raises(NodeFailed, match="another Python"):
            index.part({"ref": "workspace:index.npz", "digest": found}, "bm25", bm25.opened)


def test_an_unknown_word_is_corrected_only_to_a_word_alike(known: Corpus) -> None:
    assert queries.corrected(known, "direktory") == "directory"
    assert queries.corrected(known, "directory") == "directory"
    assert queries.corrected(known, "zzzyx") == "zzzyx"
    assert queries.corrected(known, "größe") == "größe"


def test_rerankers_break_ties_of_the_retriever_in_their_own_way() -> None:
    names = ["decimal.Context.sqrt", "math.sqrt", "cmath.sqrt"]
    state: Any = {
        "asked": ["square", "root"],
        "hits": [{"name": name, "score": 1.0} for name in names],
    }
    assert rerank.name(state)["candidates"] == ["math.sqrt", "cmath.sqrt", "decimal.Context.sqrt"]
    assert len(rerank.overlap(state)["context"]) == 3


def test_without_candidates_there_is_no_answer() -> None:
    assert graph.extractive({"candidates": []}) == {"answer": ""}
