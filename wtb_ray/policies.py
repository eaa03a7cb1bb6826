"""Timeouts and retries of nodes, as the project says, in the form that LangGraph takes.

A timeout is one of silence between heartbeats, which code that waits for a limit sends: waiting for
the cluster's sake uses up no node's time.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from langgraph._internal._retry import default_retry_on
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import RetryPolicy, TimeoutPolicy

from wtb_ray.environment import ExecutionConfig, RetryConfig
from wtb_ray.overload import overload_of


@dataclass(frozen=True)
class Policies:
    """Those of a project, by path of the node."""

    config: ExecutionConfig = field(default_factory=ExecutionConfig)

    def put_on(self, path: str, spec: Any, builder: Any) -> bool:
        """Changes the node of a builder that is to be compiled; where nothing is said, nothing changes.

        Returns:
            Whether it has a timeout now that the graph did not give it.
        """
        own = self.config.node_timeouts.get(path)
        graph = isinstance(spec.runnable, CompiledStateGraph)
        theirs = spec.timeout or builder._node_defaults.timeout
        seconds = own or (None if graph or theirs else self.config.default_timeout_s)
        if seconds is not None:
            spec.timeout = TimeoutPolicy(idle_timeout=seconds, refresh_on="heartbeat")
        if (retry := self.config.retries.get(path)) is not None:
            spec.retry_policy = _policy(retry)
        return seconds is not None


NO_POLICIES: Final = Policies()


def _policy(retry: RetryConfig) -> RetryPolicy:
    return RetryPolicy(
        initial_interval=retry.initial_interval_s,
        backoff_factor=retry.backoff,
        max_interval=retry.max_interval_s,
        max_attempts=retry.max_attempts,
        jitter=retry.jitter,
        retry_on=_passing,
    )


def _passing(error: Exception) -> bool:
    return default_retry_on(error) or overload_of(error) is not None
