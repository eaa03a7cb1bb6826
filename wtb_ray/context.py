"""What belongs to one run and is looked up from inside its nodes: params, and where caches lie.

It is a context variable: right for any number of runs at once, in coroutines and in the threads that
sync nodes run in. Outside a run all of it is empty, so that a graph also works without the bench.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from langgraph.config import get_config


@dataclasses.dataclass(frozen=True)
class Context:
    """What belongs to one run and is looked up from inside its nodes."""

    execution_id: str
    params: Mapping[str, Mapping[str, Any]]
    cache_scope: str


_CONTEXT: ContextVar[Context | None] = ContextVar("wtb_run", default=None)


def params() -> dict[str, Any]:
    """The parameters of the variant that runs in this node; empty outside a node or without any."""
    context = _CONTEXT.get()
    if context is None:
        return {}
    return dict(context.params.get(current_node() or "", {}))


def current_node() -> str | None:
    """Path of the node that this code runs in (`outer/inner` in a subgraph), None outside."""
    try:
        namespace = get_config().get("configurable", {}).get("checkpoint_ns", "")
    except RuntimeError:  # not inside a graph
        return None
    parts = [part.partition(":")[0] for part in namespace.split("|") if not part.isdigit()]
    return "/".join(parts) or None


@contextmanager
def entered(context: Context) -> Iterator[None]:
    """Makes this the run of all code inside."""
    token = _CONTEXT.set(context)
    try:
        yield
    finally:
        _CONTEXT.reset(token)


def cache_scope(fingerprint: str) -> str:
    """Where a node's cache entries lie: repetitions must not be copies of each other."""
    context = _CONTEXT.get()
    return f"{context.cache_scope if context else ''}:{fingerprint}:"
