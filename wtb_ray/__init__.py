"""wtb-ray: a distributed test bench for LangGraph workflows.

The public names are loaded when they are first used: importing the package does nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wtb_ray import errors
    from wtb_ray.context import params, usage, workspace
    from wtb_ray.environment import (
        EnvironmentConfig,
        EnvSpec,
        ExecutionConfig,
        NodeResourceConfig,
        RetryConfig,
    )
    from wtb_ray.limits import limit
    from wtb_ray.scoring import scorer
    from wtb_ray.sdk import (
        AsyncTestBench,
        FileTrackingConfig,
        WorkflowProject,
        WorkspaceIsolationConfig,
        WTBTestBench,
    )
    from wtb_ray.secret_values import secret

__version__ = "0.1.0"

__all__ = [
    "AsyncTestBench",
    "EnvSpec",
    "EnvironmentConfig",
    "ExecutionConfig",
    "FileTrackingConfig",
    "NodeResourceConfig",
    "RetryConfig",
    "WTBTestBench",
    "WorkflowProject",
    "WorkspaceIsolationConfig",
    "__version__",
    "errors",
    "limit",
    "params",
    "scorer",
    "secret",
    "usage",
    "workspace",
]

_HOMES = {
    "AsyncTestBench": "wtb_ray.sdk",
    "EnvSpec": "wtb_ray.environment",
    "EnvironmentConfig": "wtb_ray.environment",
    "ExecutionConfig": "wtb_ray.environment",
    "FileTrackingConfig": "wtb_ray.model",
    "NodeResourceConfig": "wtb_ray.environment",
    "RetryConfig": "wtb_ray.environment",
    "WTBTestBench": "wtb_ray.sdk",
    "WorkflowProject": "wtb_ray.sdk",
    "WorkspaceIsolationConfig": "wtb_ray.model",
    "limit": "wtb_ray.limits",
    "params": "wtb_ray.context",
    "scorer": "wtb_ray.scoring",
    "secret": "wtb_ray.secret_values",
    "usage": "wtb_ray.context",
    "workspace": "wtb_ray.context",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("wtb_ray.errors")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
