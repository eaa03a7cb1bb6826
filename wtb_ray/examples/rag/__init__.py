"""A RAG pipeline over the documentation of Python's standard library, as an example project.

Everything it needs is in the interpreter that runs it: no network, no key, no download. Modules:
`text` and `corpus` read and cut the documentation, `index` keeps what is searched in the workspace,
`queries`, `bm25`, `vectors`, `rerank` and `chat` hold the nodes, `graph` ties them, `questions` and
`demo` are what a batch is made of.
"""

from wtb_ray.examples.rag.demo import matrix, project, scorers
from wtb_ray.examples.rag.graph import build_graph
from wtb_ray.examples.rag.questions import cases

__all__ = ["build_graph", "cases", "matrix", "project", "scorers"]
