"""Feature engineering: three ways to make numbers of an image, each a variant of the node.

A way is fitted on the training images and stored as arrays, so that whoever serves the model applies
exactly it: a linear map, a rectifier for some, and scaling.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wtb_ray.context import params
from wtb_ray.examples.ml.artefacts import Arrays, load_arrays, save_arrays
from wtb_ray.examples.ml.data import BLACK, TRAIN
from wtb_ray.examples.ml.state import State

SIDE = 8
COMPONENTS = 16
"""Principal components that are kept unless the parameter `components` says otherwise."""
STEADY = 0.05
"""Least deviation that a feature is scaled by: pixels at the rim are nearly always white."""
WIDEST = 4.0
"""Variance along the widest direction of all features, so that one learning rate suits each way."""

Floats = NDArray[np.floating[Any]]


def pixels(state: State) -> State:
    """The grey values themselves."""
    return _made(state, lambda _: {"basis": np.eye(SIDE * SIDE)})


def edges(state: State) -> State:
    """Where the grey rises and where it falls, from left to right and from top to bottom."""
    steps = np.eye(SIDE * SIDE).reshape(-1, SIDE, SIDE)
    across = np.diff(steps, axis=2).reshape(len(steps), -1)
    down = np.diff(steps, axis=1).reshape(len(steps), -1)
    rising = np.hstack([across, down])
    return _made(state, lambda _: {"basis": np.hstack([rising, -rising]), "rectified": np.ones(1)})


def components(state: State) -> State:
    """The first principal components of the training images."""
    kept = int(params().get("components", COMPONENTS))

    def fitted(images: Floats) -> Arrays:
        _, _, directions = np.linalg.svd(images - images.mean(axis=0), full_matrices=False)
        return {"basis": directions[:kept].T}

    return _made(state, fitted)


def apply(transform: Arrays, images: Floats) -> NDArray[np.float32]:
    """The features of images, one row each."""
    mapped = _mapped(transform, images)
    return ((mapped - transform["centre"]) / transform["scale"]).astype(np.float32)


def _mapped(transform: Arrays, images: Floats) -> Floats:
    mapped: Floats = (images.astype(np.float64) / BLACK) @ transform["basis"]
    return np.maximum(mapped, 0) if "rectified" in transform else mapped


def _made(state: State, fit: Any) -> State:
    clean = load_arrays(state["clean"])
    train = clean["images"][clean["part"] == TRAIN]
    transform: Arrays = fit(train.astype(np.float64) / BLACK)
    mapped = _mapped(transform, train)
    transform["centre"] = mapped.mean(axis=0)
    transform["scale"] = np.maximum(mapped.std(axis=0), STEADY)
    # How far a step may go without overshooting is decided by the direction with most variance.
    rows = apply(transform, train)
    widest = np.linalg.eigvalsh(rows.T @ rows / len(rows))[-1]
    transform["scale"] *= (widest / WIDEST) ** 0.5
    table = {**clean, "images": apply(transform, clean["images"])}
    table["features"] = table.pop("images")
    return {
        "transform": save_arrays("model/transform.npz", transform),
        "table": save_arrays("data/table.npz", table),
    }
