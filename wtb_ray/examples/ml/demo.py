"""The project, its variants, and the matrix that the demo runs."""

from wtb_ray.examples.ml.scores import quality
from wtb_ray.model import FileTrackingConfig, ProjectSpec, ScorerSpec, VariantSpec

_PACKAGE = "wtb_ray.examples.ml"

FEATURES = ("pixels", "edges", "components")
MODELS = ("network", "linear", "naive_bayes")


def project() -> ProjectSpec:
    """The project as it is registered; the package is installed wherever the bench runs."""
    return ProjectSpec(
        name="ml",
        entry=f"{_PACKAGE}:build_graph",
        description="A classifier of handwritten digits, from collecting data to monitoring",
        variants={
            "features": {
                name: VariantSpec(implementation=f"{_PACKAGE}.features:{name}") for name in FEATURES
            },
            "tune": {
                "quick": VariantSpec(params={"epochs": 8}),
                "thorough": VariantSpec(params={"epochs": 40}),
                "bold": VariantSpec(params={"learning_rate": 0.8}),
            },
            "train": {
                name: VariantSpec(implementation=f"{_PACKAGE}.train:{name}") for name in MODELS
            },
        },
        file_tracking=FileTrackingConfig(),
    )


def matrix() -> list[dict[str, str]]:
    """Every feature set with every model."""
    return [{"features": features, "train": model} for features in FEATURES for model in MODELS]


def scorers() -> list[ScorerSpec]:
    """Accuracy first: the leaderboard goes by it."""
    return [quality.spec()]
