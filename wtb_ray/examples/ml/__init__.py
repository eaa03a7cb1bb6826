"""A machine learning pipeline on scikit-learn's handwritten digits, as an example project.

It trains in the interpreter that runs it, in well under a second: no network, no download. Modules:
`data`, `features`, `train` with `models`, `evaluate` with `plot`, and `release` hold the nodes, which
leave their results as files in the workspace (`artefacts`) and refer to them in `state`; `graph`
ties them, `tasks`, `scores` and `demo` are what a batch is made of.
"""

from wtb_ray.examples.ml.demo import matrix, project, scorers
from wtb_ray.examples.ml.graph import build_graph
from wtb_ray.examples.ml.tasks import cases

__all__ = ["build_graph", "cases", "matrix", "project", "scorers"]
