"""The RAG pipeline of `tests/projects/support` as its user describes it to the bench."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from wtb_ray.model import Case, ScorerSpec
from wtb_ray.sdk import WorkflowProject

ROOT = Path(__file__).parents[1] / "projects" / "support"
NAME = "rag_pipeline"
QUESTIONS = {
    "What is the capital of France": "paris",
    "capital of Italy": "rome",
    "river in France": "seine",
    "river in Italy": "tiber",
}
CASES = [Case(id=a, input={"query": q}, expected=a) for q, a in QUESTIONS.items()]
EXACT = ScorerSpec(name="exact", args={"field": "answer"})


@contextmanager
def imported() -> Iterator[ModuleType]:
    """The user's module, imported as a user imports it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        yield importlib.import_module(NAME)
        del sys.modules[NAME]


def described(module: ModuleType) -> WorkflowProject:
    """The project with its variants."""
    project = WorkflowProject(name=NAME, graph_factory=module.create_rag_graph, root=ROOT)
    project.register_variant("retriever", "bm25_retriever", module.bm25_retriever)
    project.register_variant("retriever", "faiss_retriever", module.faiss_retriever)
    project.register_variant("retriever", "wide", params={"k": 4})
    project.register_variant("retriever", "bm25_wide", module.bm25_retriever, params={"k": 2})
    project.register_workflow_variant("simple_rag_architecture", module.simple_rag_architecture)
    project.register_workflow_variant("waiting", module.waiting_graph)
    return project
