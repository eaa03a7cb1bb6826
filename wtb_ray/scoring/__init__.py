"""Scorers: the contract, the built-in ones, and how to find and call them."""

from wtb_ray.scoring.base import (
    BUILT_IN,
    CellOutcome,
    Reply,
    Scorer,
    check,
    resolve,
    score,
    scorer,
    validate,
)

__all__ = [
    "BUILT_IN",
    "CellOutcome",
    "Reply",
    "Scorer",
    "check",
    "resolve",
    "score",
    "scorer",
    "validate",
]
