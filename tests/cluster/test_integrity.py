"""The integrity of the real stack: nothing is wrong with it, and its checker outlives its process."""

import subprocess
import sys
from pathlib import Path

from tests.cluster.pipeline import NAME, described, imported
from tests.stack import Stack, wait_until
from wtb_ray import errors
from wtb_ray.sdk import WTBTestBench


def test_what_has_run_on_the_stack_is_consistent(bench: WTBTestBench, stack: Stack) -> None:
    with imported() as module:
        bench.register_project(described(module))
        bench.run(NAME, {"query": "river in Italy"})
    report = bench.check_integrity(deep=True)
    # Other tests kill runners; whoever takes their work over has a directory of its own.
    wrong = [one.message for one in report.items if one.problem != "lock_stale"]
    assert wrong == []
    assert bench.get_integrity().id == report.id


def test_the_checker_outlives_its_process(bench: WTBTestBench, stack: Stack) -> None:
    assert stack.kill("ray::IntegrityChecker")

    def checked() -> bool:
        try:
            return bench.check_integrity().healthy
        except errors.Unavailable:  # it is being started again
            return False

    wait_until(checked)
    script = str(Path(sys.executable).with_name("wtb"))
    line = [script, "integrity", "check", "--url", stack.url]
    shown = subprocess.run(line, capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("healthy")
