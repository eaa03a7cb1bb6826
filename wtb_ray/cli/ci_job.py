"""What a Ray job of `wtb ci run` runs: `python -m wtb_ray.cli.ci_job SUBMISSION`.

Starts the batch of the request in its working directory, or finds it, and ends when it ends. Where
the bench is and what opens it stand in the environment: `WTB_URL`, `WTB_TOKEN`. A job that is
stopped leaves the batch alone, so that the next one goes on with it.
"""

import os
import sys
import time
from pathlib import Path
from typing import Final

from wtb_ray import errors
from wtb_ray.cli import options
from wtb_ray.cli.progress import Lines
from wtb_ray.cli.submissions import Submission
from wtb_ray.cli.terminal import EXIT_ERROR, EXIT_FAILED, error_line, say, stderr
from wtb_ray.model import Batch
from wtb_ray.sdk import WTBTestBench, flows
from wtb_ray.states import BatchStatus

PENDING_S: Final = 180.0
"""Longer than the bench takes a request for under way whose sender and server are gone."""
POLL_S: Final = 1.0


def run(submission: Submission, bench: WTBTestBench) -> Batch:
    """The batch of the submission, once it has ended."""
    batch = _started(submission, bench)
    say(f"batch {batch.id} of {batch.project}")
    return bench.flow(flows.batch_ended(batch, None, Lines(stderr())))


def _started(submission: Submission, bench: WTBTestBench) -> Batch:
    deadline = time.monotonic() + PENDING_S
    while True:
        try:
            return bench.send(submission.start())
        except errors.Conflict as e:
            under_way = e.code == errors.Conflict.code and e.details.get("reason") == "pending"
            if not under_way or time.monotonic() > deadline:
                raise
        time.sleep(POLL_S)


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 when the batch has completed, 3 when it failed or was stopped, 1 for errors."""
    (id,) = sys.argv[1:] if arguments is None else arguments
    try:
        with options.connect(os.environ.get("WTB_URL")) as bench:
            batch = run(Submission.read(id, Path.cwd()), bench)
    except errors.WTBError as e:
        say(error_line(e))
        return EXIT_ERROR
    say(f"batch {batch.id} {batch.status.lower()}")
    return 0 if batch.status == BatchStatus.COMPLETED else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
