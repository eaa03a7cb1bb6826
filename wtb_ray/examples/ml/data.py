"""The data: scanned digits from scikit-learn, collected, validated and profiled.

The images are those of `load_digits`: 1,797 of 8 x 8 pixels, grey from 0 to 16. Collecting makes a
day at the post office of them: a sample with noise, damaged scans and wrong labels, all by the seed.
"""

import functools

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from wtb_ray.examples.ml.artefacts import Arrays, load_arrays, save_arrays, save_json
from wtb_ray.examples.ml.state import State, Task

WHITE, BLACK = 0, 16
DIGITS = 10
DAMAGED = 0.02
"""Share of the scans that arrive without content."""
TRAIN, VALIDATION, TEST = range(3)
PARTS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
SHARES = (0.6, 0.2, 0.2)
FEWEST = 3
"""Training images that each digit needs."""


class DataRejected(ValueError):
    """What was collected cannot be learned from."""


def collect(state: State) -> State:
    """Sample the images and say which part each belongs to."""
    task = Task.of({name: state[name] for name in Task.model_fields if name in state})  # type: ignore[literal-required]
    random = np.random.default_rng(task.seed)
    images, labels = _digits()
    chosen = random.permutation(len(labels))[: task.rows]
    part = np.searchsorted(np.cumsum(SHARES), np.arange(task.rows) / task.rows, "right")
    sample = images[chosen] + random.normal(0, task.noise * BLACK, (task.rows, images.shape[1]))
    sample = np.clip(sample, WHITE, BLACK).astype(np.float32)
    sample[random.random(task.rows) < DAMAGED] = np.nan
    wrong = (random.random(task.rows) < task.mislabelled) & (part == TRAIN)
    drawn = random.integers(0, DIGITS, task.rows)
    raw: Arrays = {
        "images": sample,
        "labels": np.where(wrong, drawn, labels[chosen]).astype(np.int8),
        "part": part.astype(np.int8),
    }
    filled: State = {**task.model_dump(), "raw": save_arrays("data/raw.npz", raw)}  # type: ignore[typeddict-item]
    return filled


def validate(state: State) -> State:
    """Leave out damaged scans.

    Raises:
        DataRejected: A digit has too few training images left.
    """
    raw = load_arrays(state["raw"])
    whole = np.isfinite(raw["images"]).all(axis=1)
    clean = {name: array[whole] for name, array in raw.items()}
    counts = np.bincount(clean["labels"][clean["part"] == TRAIN], minlength=DIGITS)
    if counts.min() < FEWEST:
        raise DataRejected(
            f"{counts.min()} training images of the digit {counts.argmin()}: {FEWEST} are needed"
        )
    return {"clean": save_arrays("data/clean.npz", clean)}


def profile(state: State) -> State:
    """Describe the training data, for people and for the monitoring."""
    clean = load_arrays(state["clean"])
    train = clean["part"] == TRAIN
    ink = clean["images"][train].mean(axis=1) / BLACK
    digits = {
        str(digit): _described(ink[clean["labels"][train] == digit]) for digit in range(DIGITS)
    }
    facts = {"images": len(clean["labels"]), "ink": _described(ink), "digits": digits}
    return {"profiled": save_json("reports/profile.json", facts)}


def _described(ink: NDArray[np.float32]) -> dict[str, float]:
    return {
        "images": len(ink),
        "mean": round(float(ink.mean()), 4),
        "deviation": round(float(ink.std()), 4),
    }


@functools.cache
def _digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    images, labels = load_digits(return_X_y=True)
    return images, labels
