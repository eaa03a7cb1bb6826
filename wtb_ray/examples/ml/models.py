"""Classifiers as plain arrays: nets trained by gradient descent, and naive Bayes in closed form.

Nets learn one-hot targets by squared error, without clipping and without rescue: too large a step
overshoots, the next one overshoots more, and the weights grow until they are no numbers.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wtb_ray.examples.ml.artefacts import Arrays
from wtb_ray.examples.ml.data import DIGITS
from wtb_ray.examples.ml.state import Hyperparameters

Floats = NDArray[np.float32]
Labels = NDArray[np.integer[Any]]

BATCH = 32
BLOWN_UP = 1e6
"""A loss this high is lost: to answer nothing costs 0.5."""


class TrainingDiverged(ArithmeticError):
    """The loss grew without bounds: the learning rate is too high for this model and data."""


class Net:
    """Layers of weights with rectifiers in between; one layer is a linear model."""

    def __init__(self, sizes: list[int], random: np.random.Generator) -> None:
        pairs = list(pairwise(sizes))
        self.weights = [
            random.normal(0, (2 / rows) ** 0.5, (rows, columns)).astype(np.float32)
            for rows, columns in pairs
        ]
        self.biases = [np.zeros(columns, np.float32) for _, columns in pairs]
        if len(pairs) == 1:
            self.weights[0][:] = 0
        self._speed = [np.zeros_like(each) for each in self.weights + self.biases]

    def train(
        self, features: Floats, labels: Labels, chosen: Hyperparameters, seed: int
    ) -> Iterator[float]:
        """Gradient descent in small batches, with momentum and steps that shrink towards the end.

        Gives the loss after each epoch.

        Raises:
            TrainingDiverged: It does not learn but grows.
        """
        random = np.random.default_rng(seed)
        targets = np.eye(DIGITS, dtype=np.float32)[labels]
        for epoch in range(1, chosen.epochs + 1):
            order = random.permutation(len(labels))
            cooling = 1 - (epoch - 1) / chosen.epochs
            # That numbers overflow is what divergence is; the loss tells of it.
            with np.errstate(over="ignore", invalid="ignore"):
                for start in range(0, len(order), BATCH):
                    batch = order[start : start + BATCH]
                    self._step(features[batch], targets[batch], chosen, cooling)
                errors = self._activations(features)[-1] - targets
                loss = float((errors**2).sum(axis=1).mean() / 2)
            yield loss
            if not loss < BLOWN_UP:
                raise TrainingDiverged(
                    f"the loss is {loss:.3g} after epoch {epoch} of {chosen.epochs}"
                    f" with a learning rate of {chosen.learning_rate:g}"
                )

    def arrays(self) -> Arrays:
        weights = {f"weights{i}": each for i, each in enumerate(self.weights)}
        return weights | {f"biases{i}": each for i, each in enumerate(self.biases)}

    def _activations(self, features: Floats) -> list[Floats]:
        found = [features]
        last = len(self.weights) - 1
        for i, (weights, biases) in enumerate(zip(self.weights, self.biases, strict=True)):
            raw = found[-1] @ weights + biases
            found.append(raw if i == last else np.maximum(raw, 0))
        return found

    def _step(
        self, features: Floats, targets: Floats, chosen: Hyperparameters, cooling: float
    ) -> None:
        found = self._activations(features)
        error = (found[-1] - targets) / np.float32(len(targets))
        slopes: list[Floats] = [error] * len(self._speed)
        for i in reversed(range(len(self.weights))):
            slopes[i] = found[i].T @ error + np.float32(chosen.decay) * self.weights[i]
            slopes[len(self.weights) + i] = error.sum(axis=0)
            error = (error @ self.weights[i].T) * (found[i] > 0)
        values = self.weights + self.biases
        for value, speed, slope in zip(values, self._speed, slopes, strict=True):
            speed *= np.float32(chosen.momentum)
            speed -= np.float32(cooling * chosen.learning_rate) * slope
            value += speed


def bayes(features: Floats, labels: Labels, smoothing: float) -> Arrays:
    """Gaussian naive Bayes: for each digit the mean and the variance of every feature."""
    own = [features[labels == digit] for digit in range(DIGITS)]
    return {
        "means": np.array([rows.mean(axis=0) for rows in own]),
        "variances": np.array([rows.var(axis=0) + np.float32(smoothing) for rows in own]),
        "priors": np.array([len(rows) / len(labels) for rows in own], np.float32),
    }


def predict(model: Arrays, features: Floats) -> NDArray[np.int64]:
    """The digit of every row, by the arrays of any of the models."""
    scores = _densities(model, features) if "means" in model else _outputs(model, features)
    found: NDArray[np.int64] = scores.argmax(axis=1)
    return found


def _densities(model: Arrays, features: Floats) -> Floats:
    far = (features[:, None, :] - model["means"]) ** 2 / model["variances"]
    likelihood = -(far + np.log(model["variances"])).sum(axis=2) / 2
    found: Floats = likelihood + np.log(model["priors"])
    return found


def _outputs(model: Arrays, features: Floats) -> Floats:
    layers = sum(name.startswith("weights") for name in model)
    found = features
    for i in range(layers):
        found = found @ model[f"weights{i}"] + model[f"biases{i}"]
        if i < layers - 1:
            found = np.maximum(found, 0)
    return found
