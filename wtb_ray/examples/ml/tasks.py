"""The test cases: several qualities of data, each with several seeds, and the accuracy to expect."""

from typing import Any

from wtb_ray.model import Case

SEEDS = 4
CONDITIONS: dict[str, tuple[dict[str, Any], float]] = {
    "plain": ({"noise": 0.0}, 0.93),
    "noisy": ({"noise": 0.25}, 0.85),
    "few": ({"rows": 400}, 0.88),
    "mislabelled": ({"mislabelled": 0.2}, 0.88),
    "hard": ({"rows": 500, "noise": 0.2, "mislabelled": 0.1}, 0.8),
}
"""What is given, and the accuracy that a sensible pipeline reaches with it."""


def cases() -> list[Case]:
    """Every condition with every seed; nobody is asked, since a batch has nobody to answer."""
    return [
        Case(
            id=f"{name}:{seed}",
            input={**given, "seed": seed, "target": expected, "approval": "automatic"},
            expected={"accuracy": expected},
            metadata={"condition": name},
        )
        for name, (given, expected) in CONDITIONS.items()
        for seed in range(SEEDS)
    ]
