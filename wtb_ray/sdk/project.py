"""A project as its author describes it: a graph, variants of its nodes, and where their code is."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from wtb_ray import errors
from wtb_ray.environment import EnvironmentConfig, EnvSpec, ExecutionConfig, NodeResourceConfig
from wtb_ray.model import (
    FileTrackingConfig,
    ProjectSpec,
    VariantSpec,
    WorkspaceIsolationConfig,
)
from wtb_ray.sdk.bundle import Code


class WorkflowProject:
    """A workflow that can be registered with a bench.

    Args:
        name: Letters, digits, `_`, `.` and `-`.
        graph_factory: A function that gives a `StateGraph` or a compiled graph, or the import path
            `"package.module:name"` of one or of such a function.
        root: The folder that is sent to the bench. Unset: the nearest folder above the code with
            a `pyproject.toml`, `langgraph.json` or `.git`, else the folder of the code itself.
            Nothing is sent when all of the code belongs to installed packages.
        description: For people.
        state_types: Further classes that may be stored in the graph's state.
        file_tracking: Keeps the files of the workspace with every checkpoint, and says which.
        workspace_isolation: How the directory of each execution is made and what becomes of it.
        environment: Packages, variables and secrets of the project and of its nodes.
        execution: How executions run: resources of nodes, the limit of super-steps.
    """

    def __init__(
        self,
        name: str,
        graph_factory: Callable[..., Any] | str,
        root: Path | str | None = None,
        description: str = "",
        state_types: Iterable[type | str] = (),
        file_tracking: FileTrackingConfig | None = None,
        workspace_isolation: WorkspaceIsolationConfig | None = None,
        environment: EnvironmentConfig | None = None,
        execution: ExecutionConfig | None = None,
    ) -> None:
        self.name = name
        self.description = description
        self.file_tracking = file_tracking
        self.workspace_isolation = workspace_isolation
        self.environment = environment
        self.execution = execution
        self.code = Code(root)
        self._entry = self.code.name(graph_factory, "graph_factory")
        self._state_types = tuple(self.code.name(t, "state_types") for t in state_types)
        self._variants: dict[str, dict[str, VariantSpec]] = {}
        self._workflows: dict[str, str] = {}
        self.spec(None)  # a name or path of the wrong form is refused here, not when it is sent

    def register_variant(
        self,
        node: str,
        name: str,
        implementation: Callable[..., Any] | str | None = None,
        params: Mapping[str, Any] | None = None,
        environment: EnvSpec | None = None,
        resources: NodeResourceConfig | None = None,
    ) -> None:
        """Add a variant of a node: another implementation, other `params`, environment or resources.

        An implementation that other processes can import only in its own environment is named by
        its import path, `"package.module:name"`.

        Raises:
            AlreadyExists: The node has a variant of this name.
            NotImportable: Other processes cannot import the implementation.
        """
        if all(given is None for given in (implementation, params, environment, resources)):
            raise errors.InvalidRequest(
                f"variant {name!r} of node {node!r} differs in nothing: give an implementation,"
                " params, an environment or resources",
                field="implementation",
                reason="missing",
            )
        if name in self._variants.get(node, {}):
            raise errors.AlreadyExists(
                f"node {node!r} has a variant {name!r} already", field="name", node=node
            )
        self.update_variant(node, name, implementation, params, environment, resources)

    def update_variant(
        self,
        node: str,
        name: str,
        implementation: Callable[..., Any] | str | None = None,
        params: Mapping[str, Any] | None = None,
        environment: EnvSpec | None = None,
        resources: NodeResourceConfig | None = None,
    ) -> None:
        """Add a variant of a node, or put another one in the place of the one of this name."""
        field = f"implementation of {node}/{name}"
        path = None if implementation is None else self.code.name(implementation, field)
        variant = VariantSpec(
            implementation=path,
            params=dict(params or {}),
            environment=environment,
            resources=resources,
        )
        self._variants.setdefault(node, {})[name] = variant

    def remove_variant(self, node: str, name: str) -> None:
        """Take a variant of a node out; versions that were registered keep it.

        Raises:
            NotFound: The node has no variant of this name.
        """
        if name not in self._variants.get(node, {}):
            raise errors.NotFound(f"node {node!r} has no variant {name!r}", field="name", node=node)
        del self._variants[node][name]
        if not self._variants[node]:
            del self._variants[node]

    def update_graph(self, graph_factory: Callable[..., Any] | str) -> None:
        """Take another graph."""
        self._entry = self.code.name(graph_factory, "graph_factory")

    def register_workflow_variant(self, name: str, graph_factory: Callable[..., Any] | str) -> None:
        """Add a whole other graph, chosen by `{"_workflow": name}`.

        Raises:
            AlreadyExists: There is a workflow variant of this name.
            NotImportable: Other processes cannot import the factory.
        """
        if name in self._workflows:
            raise errors.AlreadyExists(
                f"there is a workflow variant {name!r} already", field="name"
            )
        self._workflows[name] = self.code.name(graph_factory, f"graph_factory of {name}")

    def spec(self, bundle: str | None) -> ProjectSpec:
        """What is registered, with the digest of the uploaded bundle."""
        try:
            return ProjectSpec(
                name=self.name,
                entry=self._entry,
                bundle=bundle,
                variants=self._variants,
                workflow_variants=self._workflows,
                state_types=self._state_types,
                description=self.description,
                file_tracking=self.file_tracking,
                workspace_isolation=self.workspace_isolation,
                environment=self.environment,
                execution=self.execution,
            )
        except ValidationError as e:
            first = e.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise errors.InvalidRequest(
                f"{field}: {first['input']!r}: {first['msg']}", field=field, reason=first["type"]
            ) from e

    def __repr__(self) -> str:
        return f"WorkflowProject({self.name!r}, {self._entry!r})"
