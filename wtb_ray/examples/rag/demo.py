"""The project, its variants, and the matrix that the demo runs."""

from wtb_ray.model import FileTrackingConfig, ProjectSpec, ScorerSpec, VariantSpec

_PACKAGE = "wtb_ray.examples.rag"

RETRIEVERS = ("bm25", "tfidf", "char")
RERANKERS = ("overlap", "name")


def project() -> ProjectSpec:
    """The project as it is registered; the package is installed wherever the bench runs."""
    return ProjectSpec(
        name="rag",
        entry=f"{_PACKAGE}:build_graph",
        description="Questions about Python's standard library, answered from its documentation",
        # `load` writes the one file there is, and asks for it to be kept: no step after it is looked at.
        file_tracking=FileTrackingConfig(commit_on="manual"),
        variants={
            "expand": {
                "plain": VariantSpec(params={"strength": 0}),
                "wide": VariantSpec(params={"strength": 3}),
            },
            "retrieve": {
                "bm25": VariantSpec(implementation=f"{_PACKAGE}.bm25:bm25"),
                "tfidf": VariantSpec(implementation=f"{_PACKAGE}.vectors:tfidf"),
                "char": VariantSpec(implementation=f"{_PACKAGE}.vectors:char"),
            },
            "rerank": {
                "overlap": VariantSpec(implementation=f"{_PACKAGE}.rerank:overlap"),
                "name": VariantSpec(implementation=f"{_PACKAGE}.rerank:name"),
            },
            "answer": {
                "extractive": VariantSpec(implementation=f"{_PACKAGE}.graph:extractive"),
                "chat": VariantSpec(implementation=f"{_PACKAGE}.chat:chat"),
            },
        },
    )


def matrix() -> list[dict[str, str]]:
    """Every retriever with every reranker."""
    return [
        {"retrieve": retriever, "rerank": reranker}
        for retriever in RETRIEVERS
        for reranker in RERANKERS
    ]


def scorers() -> list[ScorerSpec]:
    """Whether the answer is right, and how far up the candidates the right one stands."""
    return [
        ScorerSpec(name="exact", args={"field": "answer"}),
        ScorerSpec(name="mrr", args={"field": "candidates"}),
        ScorerSpec(name="recall_at_k", args={"field": "candidates", "k": 5}),
    ]
