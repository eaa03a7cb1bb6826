"""What a `WorkflowProject` becomes when it is sent."""

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
from pydantic import ByteSize, ValidationError

from wtb_ray import errors
from wtb_ray.environment import EnvironmentConfig, EnvSpec, ExecutionConfig, NodeResourceConfig
from wtb_ray.model import Frozen, VariantSpec
from wtb_ray.sdk import FileTrackingConfig, WorkflowProject, WorkspaceIsolationConfig

ENTRY = "wtb_ray.examples.rag.graph:make"


class Note:
    """A class that a state may hold."""


def make() -> None: ...


def other() -> None: ...


HERE = Path(__file__).parent
MODULE = __name__.rpartition(".")[2]


def test_functions_become_import_paths_in_one_bundle() -> None:
    project = WorkflowProject("shop", make, root=HERE, description="d", state_types=[Note, "a:B"])
    project.register_variant("search", "fast", other)
    project.register_variant("search", "warm", params={"temperature": 1.0})
    project.register_variant("rank", "both", "pkg.mod:rank", params={"k": 3})
    project.register_workflow_variant("simple", other)
    spec = project.spec("0" * 64)
    own = {"environment", "resources"}
    assert spec.model_dump(mode="json", exclude={"variants": {"__all__": {"__all__": own}}}) == {
        "name": "shop",
        "entry": f"{MODULE}:make",
        "bundle": "0" * 64,
        "variants": {
            "search": {
                "fast": {"implementation": f"{MODULE}:other", "params": {}, "active": True},
                "warm": {"implementation": None, "params": {"temperature": 1.0}, "active": True},
            },
            "rank": {
                "both": {"implementation": "pkg.mod:rank", "params": {"k": 3}, "active": True}
            },
        },
        "workflow_variants": {"simple": f"{MODULE}:other"},
        "state_types": [f"{MODULE}:Note", "a:B"],
        "description": "d",
        "file_tracking": None,
        "workspace_isolation": None,
        "environment": None,
        "execution": None,
    }
    data = project.code.pack()
    assert data is not None
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert f"{MODULE}.py" in archive.namelist()


def test_the_same_project_is_the_same_version() -> None:
    def version() -> str:
        project = WorkflowProject("shop", ENTRY)
        project.register_variant("a", "b", params={"x": 1, "y": 2})
        return project.spec(None).version()

    assert version() == version()


def test_a_project_of_installed_code_has_no_bundle() -> None:
    project = WorkflowProject("rag", ENTRY)
    assert project.code.pack() is None
    assert project.spec(None).bundle is None


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "x" * 101])
def test_a_name_that_cannot_be_in_a_url_is_refused_at_once(name: str) -> None:
    with pytest.raises(errors.InvalidRequest) as e:
        WorkflowProject(name, ENTRY)
    assert e.value.details["field"] == "name"


def test_a_variant_needs_something_of_its_own() -> None:
    project = WorkflowProject("shop", ENTRY)
    with pytest.raises(errors.InvalidRequest, match="differs in nothing"):
        project.register_variant("search", "same")
    project.register_variant("search", "empty", params={})
    assert project.spec(None).variants == {"search": {"empty": VariantSpec()}}


def test_a_name_is_given_once() -> None:
    project = WorkflowProject("shop", ENTRY)
    project.register_variant("search", "fast", params={})
    project.register_workflow_variant("simple", ENTRY)
    with pytest.raises(errors.AlreadyExists, match="'fast'"):
        project.register_variant("search", "fast", params={"x": 1})
    with pytest.raises(errors.AlreadyExists, match="'simple'"):
        project.register_workflow_variant("simple", ENTRY)
    project.register_variant("rank", "fast", params={})


def test_a_lambda_is_refused_where_it_is_given() -> None:
    project = WorkflowProject("shop", ENTRY)
    with pytest.raises(errors.NotImportable, match=r"implementation of search/fast: .*def"):
        project.register_variant("search", "fast", lambda state: state)


CONFIGURED: list[tuple[str, Frozen]] = [
    (
        "file_tracking",
        FileTrackingConfig(
            enabled=False,
            tracked_paths=("output",),
            ignore_patterns=("*.bin",),
            commit_on="manual",
            max_file_mb=5,
            max_files=10,
            max_snapshots=3,
            on_error="pause",
        ),
    ),
    (
        "workspace_isolation",
        WorkspaceIsolationConfig(
            isolation="process",
            inputs=("data",),
            strategy="symlink",
            quota_mb=100,
            cleanup_on_complete=False,
            preserve_on_failure=False,
        ),
    ),
]


@pytest.mark.parametrize(("name", "config"), CONFIGURED)
def test_every_field_of_files_and_workspaces_is_sent(name: str, config: Frozen) -> None:
    given: dict[str, Any] = {name: config}
    spec = WorkflowProject("shop", ENTRY, **given).spec(None)
    sent = spec.model_dump()[name]
    versions = {spec.version(), WorkflowProject("shop", ENTRY).spec(None).version()}
    for field, info in type(config).model_fields.items():
        assert sent[field] == getattr(config, field) != info.default, field
        other = config.model_copy(update={field: info.default})
        one_less: dict[str, Any] = {name: other}
        versions.add(WorkflowProject("shop", ENTRY, **one_less).spec(None).version())
    assert len(versions) == len(sent) + 2, "each field makes another version"


def test_tracking_can_be_switched_off() -> None:
    def tracks(config: FileTrackingConfig | None) -> bool:
        return WorkflowProject("shop", ENTRY, file_tracking=config).spec(None).tracking

    assert [tracks(c) for c in (None, FileTrackingConfig(), FileTrackingConfig(enabled=False))] == [
        False,
        True,
        False,
    ]


PANDAS = EnvSpec(packages=("pandas>=2",))


def test_environments_and_resources_are_of_the_project_its_nodes_and_its_variants() -> None:
    project = WorkflowProject(
        "shop",
        "pkg.mod:graph",
        environment=EnvironmentConfig(granularity="variant", node_environments={"rank": PANDAS}),
        execution=ExecutionConfig(node_resources={"rank": NodeResourceConfig(num_gpus=1)}),
    )
    own = EnvSpec(packages=("pandas<2",), env_vars={"MODE": "old"}, secrets=("KEY",))
    project.register_variant("rank", "old", environment=own)
    project.register_variant("rank", "big", resources=NodeResourceConfig(memory=ByteSize(2 << 30)))
    spec = project.spec(None)
    old, big = spec.variants["rank"]["old"], spec.variants["rank"]["big"]
    assert (spec.environment_of("rank", old), spec.environment_of("rank", big)) == (own, PANDAS)
    assert spec.environment_of("rank", None) == PANDAS
    assert spec.environment_of("search", None) is None
    assert spec.resources_of("rank", old) == NodeResourceConfig(num_gpus=1)
    resources = spec.resources_of("rank", big)
    assert resources is not None
    assert (resources.asked, resources.at_once()) == ({"memory": 2 << 30}, 1)
    assert spec.version() != spec.model_copy(update={"environment": None}).version()


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"node_environments": {"a": {}}}, "granularity"),
        ({"default_env": {"packages": ["/etc/passwd --x"]}}, "packages"),
        ({"default_env": {"packages": ["a"], "lock": "a==1"}}, "lock"),
        ({"default_env": {"env_vars": {"WTB_DATABASE_URL": "x"}}}, "belongs to the bench"),
        ({"default_env": {"env_vars": {"A": "x"}, "secrets": ["A"]}}, "A is named"),
        ({"default_env": {"find_links": ["../wheels"]}}, "project's folder"),
        ({"default_env": {"python_version": "3"}}, "python_version"),
        ({"uv_manager_url": "http://x"}, "uv_manager_url"),
    ],
)
def test_environments_that_make_no_sense_are_refused_by_name(
    config: dict[str, Any], field: str
) -> None:
    with pytest.raises(ValidationError, match=field):
        EnvironmentConfig.model_validate(config)


def test_a_variant_has_an_environment_only_where_variants_may() -> None:
    project = WorkflowProject("shop", "pkg.mod:graph")
    project.register_variant("rank", "old", environment=PANDAS)
    with pytest.raises(errors.InvalidRequest, match="granularity"):
        project.spec(None)
