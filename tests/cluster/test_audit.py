"""The audit of the real stack: it seals by itself, outlives its process, and says who did what."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from tests.cluster.pipeline import NAME, described, imported
from tests.stack import Stack, wait_until
from wtb_ray.api import AuditReport
from wtb_ray.rpc import audit_pb2
from wtb_ray.rpc.audit_pb2_grpc import AuditStub
from wtb_ray.sdk import WTBTestBench, identity

HALF_A_MINUTE = 30


@pytest.fixture(scope="module")
def run(stack: Stack) -> str:
    """The id of an execution that has ended."""
    with imported() as module, WTBTestBench(stack.url) as bench:
        bench.register_project(described(module))
        return bench.run(NAME, {"query": "river in Italy"}).id


def sealed(bench: WTBTestBench) -> Callable[[], AuditReport | None]:
    def look() -> AuditReport | None:
        report = bench.verify_audit()
        return report if report.seals and not report.unsealed else None

    return look


def test_the_log_is_sealed_whatever_dies(bench: WTBTestBench, stack: Stack, run: str) -> None:
    before = wait_until(sealed(bench), HALF_A_MINUTE)
    assert before.intact
    key = stack.data_dir / "audit.key"
    assert key.stat().st_mode & 0o777 == 0o600
    stack.kill("ray::AuditSink")
    bench.run(NAME, {"query": "another river"})
    after = wait_until(sealed(bench), HALF_A_MINUTE)
    assert after.intact
    assert after.seals > before.seals
    assert bench.verify_audit(before.seals + 1, before.head).intact
    secret = key.read_text().strip()
    told = [stack.data_dir / "stack.log", *stack.data_dir.glob("objects/audit/*")]
    assert not [p for p in told if secret in p.read_text(errors="replace")]


def test_who_did_it_is_shown_everywhere(bench: WTBTestBench, stack: Stack, run: str) -> None:
    story = bench.audit_timeline(execution=run)
    assert (story[0].type, story[-1].type) == ("execution.created", "execution.completed")
    assert story[0].actor == f"http:{identity.caller('sdk')}"
    script = str(Path(sys.executable).with_name("wtb"))
    command = [script, "audit", "show", "--execution", run, "--url", stack.url]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(shown.stdout.splitlines()) == len(story)
    with grpc.insecure_channel(stack.grpc) as channel:
        wanted = audit_pb2.StreamAuditEventsRequest(
            execution_id=run, project=NAME, actor="http:*", types=["execution.created"]
        )
        [event] = AuditStub(channel).StreamAuditEvents(wanted)
    assert (event.cursor, event.actor) == (story[0].cursor, story[0].actor)
