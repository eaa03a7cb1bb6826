"""The way out: approval by somebody, deployment of a model that stands alone, its monitoring."""

import numpy as np
from langgraph.types import interrupt

from wtb_ray.examples.ml import features, models
from wtb_ray.examples.ml.artefacts import Arrays, load_arrays, load_json, save_arrays, save_json
from wtb_ray.examples.ml.data import BLACK, DIGITS, TEST
from wtb_ray.examples.ml.evaluate import accuracy
from wtb_ray.examples.ml.models import Floats, Labels
from wtb_ray.examples.ml.state import Answer, State

DEVIATIONS = 3
"""How far the mean of a window may stray, in deviations of such means."""


def approve(state: State) -> State:
    """Ask whether the model may be deployed, unless the gate's word is enough."""
    if state["approval"] == "automatic":
        return {"decision": {"approve": True, "by": "gate", "note": ""}}
    question = {
        "question": "Deploy this model?",
        "metrics": state["metrics"],
        "attempts": len(state["history"]),
        "files": [state[name]["ref"] for name in ("report", "plot", "model")],
    }
    answer: Answer = interrupt(question, response_schema=Answer)
    return {"decision": answer.model_dump()}


def deploy(state: State) -> State:
    """Put everything that a service needs into one file: how images become features, and the model."""
    parts = {"transform": state["transform"], "model": state["model"]}
    package = {
        f"{part}.{name}": array
        for part, artefact in parts.items()
        for name, array in load_arrays(artefact).items()
    }
    return {"deployed": save_arrays("output/classifier.npz", package)}


def classify(package: Arrays, images: Floats) -> Labels:
    """What a service does with the deployed file: digits of images with 64 grey values each."""
    transform, model = _part(package, "transform"), _part(package, "model")
    return models.predict(model, features.apply(transform, images))


def monitor(state: State) -> State:
    """Set the bounds outside of which somebody must look, and try them on the test images."""
    clean, package = load_arrays(state["clean"]), load_arrays(state["deployed"])
    test = clean["part"] == TEST
    images, labels = clean["images"][test], clean["labels"][test]
    bounds = _bounds(
        load_json(state["profiled"])["ink"], state["metrics"]["validation"], len(labels)
    )
    seen = _seen(images, labels, classify(package, images))
    setup = {
        "model": state["deployed"]["sha256"],
        "bounds": bounds,
        "first_window": seen,
        "alerts": alerts(bounds, seen),
    }
    return {"monitoring": save_json("output/monitoring.json", setup)}


def alerts(bounds: dict[str, list[float]], seen: dict[str, float]) -> list[str]:
    """The names of what lies outside of its bounds, sorted."""
    return sorted(name for name, (low, high) in bounds.items() if not low <= seen[name] <= high)


def _bounds(ink: dict[str, float], accuracy: float, images: int) -> dict[str, list[float]]:
    """For a window of so many images: of the profile's ink, and of the accuracy at the gate."""
    stray = DEVIATIONS * ink["deviation"] / images**0.5
    chance = DEVIATIONS * (accuracy * (1 - accuracy) / images) ** 0.5
    return {
        "ink": [round(ink["mean"] - stray, 4), round(ink["mean"] + stray, 4)],
        "accuracy": [round(accuracy - chance, 4), 1.0],
        "commonest_digit": [1 / DIGITS, 2.5 / DIGITS],
    }


def _seen(images: Floats, labels: Labels, predicted: Labels) -> dict[str, float]:
    commonest = np.bincount(predicted, minlength=DIGITS).max() / len(predicted)
    return {
        "ink": round(float(images.mean()) / BLACK, 4),
        "accuracy": accuracy(labels, predicted),
        "commonest_digit": round(float(commonest), 4),
    }


def _part(package: Arrays, part: str) -> Arrays:
    return {
        name.removeprefix(f"{part}."): array
        for name, array in package.items()
        if name.startswith(f"{part}.")
    }
