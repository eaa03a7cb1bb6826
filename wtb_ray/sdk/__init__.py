"""The Python client: describe a project, run it, read what came out. It talks HTTP only."""

from wtb_ray.environment import EnvironmentConfig, EnvSpec, ExecutionConfig, NodeResourceConfig
from wtb_ray.model import FileTrackingConfig, WorkspaceIsolationConfig
from wtb_ray.sdk.async_bench import AsyncBatch, AsyncTestBench
from wtb_ray.sdk.bench import Batch, WTBTestBench
from wtb_ray.sdk.matrix import combinations, pairwise
from wtb_ray.sdk.project import WorkflowProject
from wtb_ray.sdk.views import Execution

__all__ = [
    "AsyncBatch",
    "AsyncTestBench",
    "Batch",
    "EnvSpec",
    "EnvironmentConfig",
    "Execution",
    "ExecutionConfig",
    "FileTrackingConfig",
    "NodeResourceConfig",
    "WTBTestBench",
    "WorkflowProject",
    "WorkspaceIsolationConfig",
    "combinations",
    "pairwise",
]
