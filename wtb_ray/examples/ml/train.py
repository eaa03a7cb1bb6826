"""Choosing hyperparameters, training with them, and three kinds of model as variants of the node."""

import numpy as np

from wtb_ray.context import params
from wtb_ray.examples.ml.artefacts import Arrays, load_arrays, place, save_arrays
from wtb_ray.examples.ml.data import DIGITS, TRAIN
from wtb_ray.examples.ml.models import Floats, Labels, Net, bayes
from wtb_ray.examples.ml.state import Attempt, Hyperparameters, State

LOSSES = "reports/loss.csv"
MOST_EPOCHS = 200


def tune(state: State) -> State:
    """Choose hyperparameters: of the state, else of the variant, else the defaults.

    After each attempt that the gate did not let pass they change by what it showed.
    """
    chosen = Hyperparameters.of({**params(), **state.get("hyperparameters", {})})
    for attempt in state.get("history", []):
        chosen = adapted(chosen, attempt, state["target"])
    return {"trying": chosen.model_dump()}


def adapted(chosen: Hyperparameters, attempt: Attempt, target: float) -> Hyperparameters:
    """What to try next: train longer what has not learned enough, hold back what learned by heart.

    Known images are easier than new ones, so the target on them lies halfway to perfection.
    """
    if attempt["train"] < (1 + target) / 2:
        return chosen.model_copy(update={"epochs": min(3 * chosen.epochs, MOST_EPOCHS)})
    return chosen.model_copy(update={"decay": 3 * chosen.decay, "smoothing": 2 * chosen.smoothing})


def network(state: State) -> State:
    """Train a net with one hidden layer.

    Raises:
        TrainingDiverged: The learning rate is too high for it.
    """
    return _descended(state, hidden=[state["trying"]["width"]])


def linear(state: State) -> State:
    """Train a linear model.

    Raises:
        TrainingDiverged: The learning rate is too high for it.
    """
    return _descended(state, hidden=[])


def naive_bayes(state: State) -> State:
    """Fit Gaussian naive Bayes: nothing is iterated, so nothing can diverge."""
    chosen = Hyperparameters.of(state["trying"])
    features, labels = _examples(state)
    place(LOSSES).unlink(missing_ok=True)
    return _saved(bayes(features, labels, chosen.smoothing))


def _descended(state: State, hidden: list[int]) -> State:
    """Trains a net and writes each epoch's loss as it goes: a run that fails leaves its curve."""
    chosen = Hyperparameters.of(state["trying"])
    features, labels = _examples(state)
    net = Net([features.shape[1], *hidden, DIGITS], np.random.default_rng(state["seed"]))
    losses = []
    with place(LOSSES).open("w") as curve:
        curve.write("epoch,loss\n")
        for epoch, loss in enumerate(net.train(features, labels, chosen, state["seed"]), 1):
            losses.append(loss)
            curve.write(f"{epoch},{loss:.6g}\n")
    return _saved({**net.arrays(), "losses": np.array(losses)})


def _examples(state: State) -> tuple[Floats, Labels]:
    table = load_arrays(state["table"])
    train = table["part"] == TRAIN
    return table["features"][train], table["labels"][train]


def _saved(model: Arrays) -> State:
    return {"model": save_arrays("model/model.npz", model)}
