"""Environments and nodes of their own, on real Ray: two versions of one library in one batch."""

import json
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
import zstandard

from tests.stack import SECRET, Stack, wait_until
from tests.wheels import make_wheel
from wtb_ray import errors
from wtb_ray.rpc import environments_pb2 as pb
from wtb_ray.rpc.environments_pb2_grpc import EnvironmentsStub
from wtb_ray.sdk import (
    EnvironmentConfig,
    EnvSpec,
    ExecutionConfig,
    FileTrackingConfig,
    NodeResourceConfig,
    WorkflowProject,
    WTBTestBench,
)

GRAPH = """
import os
import pathlib
import subprocess
import sys
import time
from typing import Any
from typing_extensions import TypedDict
from langgraph.graph import START, StateGraph
import wtb_ray


class State(TypedDict, total=False):
    x: int
    seen: str
    mark: str
    pid: int
    place: str
    copied: str
    env: str
    limit: str


def prepare(state: State) -> State:
    copied = ""
    python = wtb_ray.workspace() / ".venv" / "bin" / "python"
    if python.exists():
        command = [str(python), "-c", "import lab; print('copied', lab.VERSION)"]
        copied = subprocess.check_output(command, text=True).strip()
    return {"x": state["x"] + 1, "place": sys.prefix, "copied": copied}


def misbehave(state: State) -> None:
    mark = pathlib.Path(state["mark"])
    first = not mark.exists()
    mark.write_text(str(os.getpid()))
    if mark.name == "die" and first:
        os._exit(9)
    while mark.name == "hang":
        time.sleep(0.1)


def measure(state: State) -> State:
    if "mark" in state:
        misbehave(state)
    if "limit" in state:
        for _ in range(2):
            with wtb_ray.limit(state["limit"]):
                pass
    try:
        import lab
        seen = lab.VERSION
    except ImportError:
        seen = "none"
    return {"seen": seen, "pid": os.getpid(), "env": os.environ.get("LAB_MODE", "")}


def graph() -> Any:
    builder = StateGraph(State)
    builder.add_node("prepare", prepare)
    builder.add_node("measure", measure)
    builder.add_edge(START, "prepare")
    builder.add_edge("prepare", "measure")
    return builder
"""
VARIANT = """
import os
import lab  # there only in this node's environment


def measure(state):
    return {"seen": f"own {lab.VERSION}", "pid": os.getpid()}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with wheels of two versions of one library in its folder."""
    folder = tmp_path / "project"
    for version in ("1.0", "2.0"):
        make_wheel(folder / "wheels", "lab", version)
    (folder / "pyproject.toml").write_text("")
    (folder / "lab_graph.py").write_text(GRAPH)
    (folder / "lab_variant.py").write_text(VARIANT)
    return folder


def lab(version: str, **more: Any) -> EnvSpec:
    return EnvSpec(packages=(f"lab=={version}",), find_links=("wheels",), **more)


def project(root: Path, name: str, **more: Any) -> WorkflowProject:
    return WorkflowProject(name=name, graph_factory="lab_graph:graph", root=root, **more)


@pytest.mark.timeout(300)
def test_two_versions_of_one_library_run_side_by_side_in_one_batch(
    bench: WTBTestBench, stack: Stack, root: Path
) -> None:
    config = EnvironmentConfig(
        granularity="variant",
        default_env=EnvSpec(packages=("lab",), find_links=("wheels",)),
        node_environments={"measure": lab("1.0")},
        copy_to_workspace=True,
    )
    made = project(root, "lab", environment=config, file_tracking=FileTrackingConfig())
    made.register_variant("measure", "new", environment=lab("2.0", env_vars={"LAB_MODE": "fast"}))
    made.register_variant("measure", "own", "lab_variant:measure", environment=lab("2.0"))
    version = bench.register_project(made)
    assert [node.name for node in version.graph.nodes if node.apart] == ["measure"]
    batch = bench.run_batch_test(
        project="lab",
        variant_matrix=[{}, {"measure": "new"}, {"measure": "own"}],
        test_cases=[{"id": f"c{x}", "input": {"x": x}} for x in range(3)],
    )
    assert batch.status == "COMPLETED"
    seen: dict[str, set[str]] = {}
    digests: dict[str, set[str]] = {}
    for cell in batch.results:
        done = bench.get_execution(cell.execution_id or "")
        seen.setdefault(cell.variant, set()).add(
            f"{done.state['seen']} {done.state.get('env', '')}"
        )
        assert done.state["copied"] == "copied 2.0", "for programs that nodes start"
        paths = [file.path for file in bench.files(done.id)]
        assert not [path for path in paths if ".venv" in path], "the copy is never tracked"
        [newest, *_] = bench.get_checkpoints(done.id)
        [ran] = newest.nodes
        digests.setdefault(cell.variant, set()).add(ran.environment or "")
    assert seen == {
        "default": {"1.0 "},
        "measure=new": {"2.0 fast"},
        "measure=own": {"own 2.0 "},
    }
    assert len(set.union(*digests.values())) == 3, "each variant's environment is recorded"
    for variant, version_ in (("default", "1.0"), ("measure=new", "2.0")):
        [digest] = digests[variant]
        found = httpx.get(f"{stack.url}/api/v1/environments/{digest}", trust_env=False).json()
        assert found["packages"]["lab"] == version_
    _served(stack, *digests["default"])


def _served(stack: Stack, digest: str) -> None:
    """The environment service, as another bench asks it."""
    with grpc.insecure_channel(stack.grpc) as channel:
        stub = EnvironmentsStub(channel)
        found = stub.GetEnvironment(pb.GetEnvironmentRequest(digest=digest))
        assert found.packages["lab"] == "1.0"
        assert [built.status for built in found.built] == ["READY"]
        listed = stub.ListEnvironments(pb.ListEnvironmentsRequest(limit=200)).environments
        assert digest in [one.digest for one in listed]
        bare = stub.CreateEnvironment(pb.CreateEnvironmentRequest(spec='{"env_vars": {"A": "b"}}'))
        gone = stub.DeleteEnvironment(pb.DeleteEnvironmentRequest(digest=bare.digest))
        assert gone.digest == bare.digest
        with pytest.raises(grpc.RpcError) as e:
            stub.GetEnvironment(pb.GetEnvironmentRequest(digest=bare.digest))
        assert e.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.timeout(240)
def test_resources_of_a_node_are_rays_and_what_no_host_has_is_waited_for_by_name(
    bench: WTBTestBench, stack: Stack, root: Path
) -> None:
    own = ExecutionConfig(
        node_resources={"measure": NodeResourceConfig(num_cpus=0.5, memory="64MiB")}
    )
    bench.register_project(project(root, "lab-cpu", execution=own))
    done = bench.run(project="lab-cpu", initial_state={"x": 1}, timeout=90)
    actors = httpx.get(
        f"{stack.dashboard}/api/v0/actors",
        params={
            "detail": "true",
            "filter_keys": "pid",
            "filter_predicates": "=",
            "filter_values": str(done.state["pid"]),
        },
        timeout=30,
        trust_env=False,
    ).json()["data"]["result"]["result"]
    [actor] = [a for a in actors if a["class_name"] == "NodeProcess"]
    assert actor["required_resources"] == {"CPU": 0.5, "memory": 64 << 20}
    _waits(bench)
    _dies(bench, root / "die")
    _hangs(bench, root / "hang")

    gpu = ExecutionConfig(node_resources={"measure": NodeResourceConfig(num_gpus=7)})
    bench.register_project(project(root, "lab-gpu", execution=gpu))
    waiting = bench.run(project="lab-gpu", initial_state={"x": 1}, wait=False)
    found = wait_until(
        lambda: (
            (row := bench.get_execution(waiting.id)).status == "PENDING"
            and (row.reason or "").startswith("waiting: ")
            and row
        ),
        60,
    )
    assert "'GPU': 7.0" in found.reason
    assert "measure" in found.reason
    bench.stop(waiting.id)


def _waits(bench: WTBTestBench) -> None:
    """A node in a process of its own takes from the limits of the cluster."""
    bench.set_limit("lab", requests=(60, 1), concurrency=1)
    state = {"x": 1, "limit": "lab"}
    done = bench.run(project="lab-cpu", initial_state=state, timeout=90)
    assert done.status == "COMPLETED", done.error
    waited = [node.waited_ms for c in bench.get_checkpoints(done.id) for node in c.nodes]
    assert max(waited) > 500
    bench.remove_limit("lab")
    refused = bench.run(project="lab-cpu", initial_state=state, timeout=90)
    assert refused.error is not None
    assert refused.error.code == "unknown_limit"


def _dies(bench: WTBTestBench, mark: Path) -> None:
    """The process of a node dies in a call: the execution goes on in another one."""
    died = bench.run(project="lab-cpu", initial_state={"x": 1, "mark": str(mark)}, timeout=90)
    assert (died.status, died.state["x"]) == ("COMPLETED", 2), died.error
    assert died.state["pid"] == int(mark.read_text())


def _hangs(bench: WTBTestBench, mark: Path) -> None:
    """A node that no stop ends: its process is killed."""
    hangs = bench.run(project="lab-cpu", initial_state={"x": 1, "mark": str(mark)}, wait=False)
    process = psutil.Process(int(wait_until(lambda: mark.exists() and mark.read_text())))
    bench.stop(hangs.id)
    wait_until(lambda: bench.get_execution(hangs.id).status == "CANCELLED")
    wait_until(lambda: not process.is_running())


@pytest.mark.timeout(240)
def test_environments_that_cannot_be_are_refused_at_registration_by_name(
    bench: WTBTestBench, root: Path
) -> None:
    def refused(kind: type[errors.WTBError], **spec: Any) -> errors.WTBError:
        config = EnvironmentConfig(default_env=EnvSpec(**spec))
        with pytest.raises(kind) as e:
            bench.register_project(project(root, "lab-bad", environment=config))
        return e.value

    conflict = refused(errors.EnvironmentConflict, packages=("pydantic==1.10.0",))
    assert "pydantic==1.10.0" in json.dumps(conflict.body())
    assert "requires pydantic" in json.dumps(conflict.body()), "and what the bench needs"
    refused(errors.PythonMismatch, python_version="3.8")
    missing = refused(errors.SecretMissing, secrets=("NO_SUCH_SECRET",))
    assert missing.details["secret"] == "NO_SUCH_SECRET"


LEAKY = """
import logging
from typing import Any
from typing_extensions import TypedDict
from langgraph.graph import START, StateGraph
import wtb_ray


class State(TypedDict, total=False):
    how: str
    length: int
    leak: str


def careful(state: State) -> State:
    print("the token is", wtb_ray.secret("API_TOKEN"))
    logging.getLogger("user").warning("token %s", wtb_ray.secret("API_TOKEN"))
    if state["how"] == "state":
        return {"leak": "Bearer " + wtb_ray.secret("API_TOKEN")}
    if state["how"] == "raise":
        raise PermissionError("401 for " + wtb_ray.secret("API_TOKEN"))
    return {"length": len(wtb_ray.secret("API_TOKEN"))}


def graph() -> Any:
    builder = StateGraph(State)
    builder.add_node("careful", careful)
    builder.add_edge(START, "careful")
    return builder
"""


@pytest.mark.timeout(240)
def test_a_secret_stands_nowhere_but_where_it_comes_from(
    bench: WTBTestBench, stack: Stack, tmp_path: Path
) -> None:
    root = tmp_path / "leaky"
    root.mkdir()
    (root / "pyproject.toml").write_text("")
    (root / "leaky.py").write_text(LEAKY)
    config = EnvironmentConfig(default_env=EnvSpec(secrets=("API_TOKEN",)))
    made = WorkflowProject("leaky", "leaky:graph", root=root, environment=config)
    bench.register_project(made)
    done = bench.run(project="leaky", initial_state={"how": "use"}, timeout=90)
    assert done.state["length"] == len(SECRET)
    raised = bench.run(project="leaky", initial_state={"how": "raise"}, timeout=90)
    assert raised.error is not None
    assert raised.error.message == "401 for <secret API_TOKEN>"
    kept = bench.run(project="leaky", initial_state={"how": "state"}, timeout=90)
    assert kept.error is not None
    assert (kept.error.code, "leak" in kept.error.message) == ("unstorable_value", True)
    assert not _places(stack, SECRET)
    told = _places(stack, "<secret API_TOKEN>")
    assert "table executions" in told, "the search finds what is there"
    assert any("/logs/" in place for place in told)


def _places(stack: Stack, value: str) -> list[str]:
    """Where a value stands: in the database, in objects, in logs."""
    tables = stack.rows("SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public'")
    plain, hex_ = f"%{value}%", f"%{value.encode().hex()}%"
    found = [
        f"table {table['name']}"
        for table in tables
        if stack.rows(
            f'SELECT 1 FROM "{table["name"]}" AS t WHERE t::text LIKE %s OR t::text LIKE %s LIMIT 1',
            (plain, hex_),
        )
    ]
    unpack = zstandard.ZstdDecompressor()
    for path in (stack.data_dir / "objects").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            if data.startswith(zstandard.FRAME_HEADER):
                data = unpack.stream_reader(data).read()
            found += [str(path)] if value.encode() in data else []
    [session, *_] = {
        part.partition("=")[2]
        for process in stack.processes("raylet")
        for part in process.cmdline()
        if part.startswith(("--session_dir=", "--session-dir="))
    }
    logs = [*(Path(session) / "logs").rglob("*"), stack.data_dir / "stack.log"]
    for path in logs:
        if path.is_file() and value.encode() in path.read_bytes():
            found.append(str(path))
    return found
