"""How a paused execution is parked: what it keeps of what it has for itself, and for how long.

hot keeps everything, so that it goes on at once; warm drops what can be made again in moments (its
graph, caches and nodes of their own); cold gives back all but what is stored. A strategy applies to
what the execution alone uses. Pure: nobody's clock, no I/O.
"""

import math
from typing import Final

from wtb_ray import errors
from wtb_ray.states import PauseStrategy

HOT_BELOW_S: Final = 5 * 60.0
"""A pause that is expected to be shorter keeps everything."""
WARM_BELOW_S: Final = 30 * 60.0
"""A pause that is expected to be shorter keeps its files at hand, unless it would hold a GPU."""

WORKSPACE: Final = "workspace"
GRAPH: Final = "graph"
NODES: Final = "nodes"
"""The processes of nodes that run apart, with the resources that they hold."""
PROCESS: Final = "process"


def choose(
    expected_s: float | None = None,
    *,
    gpus: float = 0.0,
    explicit: PauseStrategy | str | None = None,
) -> PauseStrategy:
    """The strategy of a pause.

    Args:
        expected_s: How long it is expected to last. None, nobody knows: it begins hot and is parked
            colder when it turns out to last.
        gpus: What the execution holds of them for itself.
        explicit: What was asked for; it wins.

    Raises:
        InvalidRequest: There is no such strategy, or no such duration.
    """
    if expected_s is not None and not (math.isfinite(expected_s) and expected_s >= 0):
        raise errors.InvalidRequest(
            f"a pause cannot last {expected_s} s", field="expected_s", reason="not a duration"
        )
    if explicit is not None:
        return _named(explicit)
    if expected_s is None or expected_s < HOT_BELOW_S:
        return PauseStrategy.HOT
    if expected_s < WARM_BELOW_S and not gpus:
        return PauseStrategy.WARM
    return PauseStrategy.COLD


def _named(name: str) -> PauseStrategy:
    try:
        return PauseStrategy(name)
    except ValueError as e:
        known = [str(strategy) for strategy in PauseStrategy]
        raise errors.InvalidRequest(
            f"there is no pause strategy {name!r}: {', '.join(known)}",
            field="strategy",
            reason="unknown",
            known=known,
        ) from e
