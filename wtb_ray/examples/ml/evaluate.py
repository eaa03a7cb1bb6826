"""Evaluation: accuracy on every part, a report and a plot, and what the quality gate says."""

import numpy as np
from numpy.typing import NDArray

from wtb_ray.examples.ml import plot
from wtb_ray.examples.ml.artefacts import load_arrays, save, save_json
from wtb_ray.examples.ml.data import DIGITS, PARTS, TEST
from wtb_ray.examples.ml.models import Labels, predict
from wtb_ray.examples.ml.state import Attempt, State

Counts = NDArray[np.int64]


def evaluate(state: State) -> State:
    """Measure the model. Only its accuracy on the validation part counts for the gate."""
    model, table = load_arrays(state["model"]), load_arrays(state["table"])
    predicted = predict(model, table["features"])
    measured = {
        name: accuracy(table["labels"][table["part"] == part], predicted[table["part"] == part])
        for name, part in PARTS.items()
    }
    test = table["part"] == TEST
    confused = confusion(table["labels"][test], predicted[test])
    metrics = {**measured, "macro_f1": macro_f1(confused)}
    attempt = Attempt(
        hyperparameters=state["trying"],
        train=measured["train"],
        validation=measured["validation"],
    )
    history = [*state.get("history", []), attempt]
    report = {"metrics": metrics, "confusion": confused.tolist(), "history": history}
    losses = model["losses"].tolist() if "losses" in model else []
    return {
        "metrics": metrics,
        "history": history,
        "verdict": verdict(state, history),
        "report": save_json("reports/metrics.json", report),
        "plot": save("reports/plot.svg", plot.svg(losses, confused.tolist()).encode()),
    }


def verdict(state: State, history: list[Attempt]) -> str:
    """`passed`, `again` while attempts are left, or `rejected`."""
    if history[-1]["validation"] >= state["target"]:
        return "passed"
    return "again" if len(history) < state["attempts"] else "rejected"


def accuracy(labels: Labels, predicted: Labels) -> float:
    """The share that is right."""
    return round(float((labels == predicted).mean()), 4)


def confusion(labels: Labels, predicted: Labels) -> Counts:
    """How often each digit (row) was taken for each (column)."""
    counts = np.zeros((DIGITS, DIGITS), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def macro_f1(confused: Counts) -> float:
    """The mean over the digits of 2PR / (P + R); a digit that is neither there nor seen has 1."""
    right = np.diag(confused)
    sums = confused.sum(axis=0) + confused.sum(axis=1)
    scores = np.divide(2 * right, sums, out=np.ones(len(right)), where=sums > 0)
    return round(float(scores.mean()), 4)
