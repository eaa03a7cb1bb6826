"""The file tracker as a process of the stack: it collects, dies, comes back and goes on."""

from pathlib import Path

from tests.cluster.test_files import project
from tests.stack import Stack, wait_until
from wtb_ray import errors
from wtb_ray.sdk import WTBTestBench
from wtb_ray.states import CollectionStatus


def test_garbage_goes_and_files_stay_also_when_the_tracker_dies(
    bench: WTBTestBench, stack: Stack, tmp_path: Path
) -> None:
    bench.register_project(project("desk-stored"))
    state = {"trace": str(tmp_path / "trace")}
    done = bench.run(project="desk-stored", initial_state=state, timeout=90)
    commits = bench.commits(done.id)
    assert commits[0].files
    before = bench.read_file(done.id, "output/report.txt")
    garbage = stack.data_dir / "objects" / "blobs" / "ab" / ("cd" * 31)
    garbage.parent.mkdir(exist_ok=True)
    garbage.write_bytes(b"nobody needs this")
    counted = bench.collect_files(grace_s=0.0)
    assert (counted.garbage, counted.swept) == (1, 0), "only what no checkpoint names"
    assert stack.kill("ray::FileTracker")

    def collected() -> bool:
        try:
            report = bench.collect_files(dry_run=False, grace_s=0.0)
        except (errors.Unavailable, errors.Conflict):
            return False
        return report.status is CollectionStatus.DONE

    wait_until(collected, 90, 0.5)
    assert not garbage.exists()
    assert bench.read_file(done.id, "output/report.txt") == before
    assert bench.rehash_files().damaged == {}
    again = bench.run(project="desk-stored", initial_state=state, timeout=90)
    assert bench.read_file(again.id, "output/report.txt") == before
