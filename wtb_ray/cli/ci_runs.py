"""A submission on a cluster: its Ray job found or submitted, and waited for.

There is at most one job at a time: a job that runs or has seen its batch to the end is attached to,
and only after one that was cut off comes another, which goes on with the same batch.
"""

import os
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from wtb_ray import errors
from wtb_ray.cli.options import TOKEN
from wtb_ray.cli.progress import Watcher
from wtb_ray.cli.submissions import BATCH, Submission, job_id
from wtb_ray.cli.terminal import say
from wtb_ray.model import Batch
from wtb_ray.sdk import WTBTestBench, calls
from wtb_ray.states import TERMINAL_BATCH

if TYPE_CHECKING:
    from wtb_ray.cli.jobs import Job, Jobs

POLL_S: Final = 1.0
PATIENCE_S: Final = 120.0
"""How long the dashboard or the bench may be away while a job is waited for."""


@dataclass(frozen=True)
class Launch:
    """How a job is started.

    Args:
        url: Where the bench is, seen from the job.
        python: The Python of the cluster, by its name on the PATH there or by its path.
    """

    project: str
    url: str
    python: str

    def entrypoint(self, submission: Submission) -> str:
        return shlex.join([self.python, "-m", "wtb_ray.cli.ci_job", submission.id])

    def environment(self) -> dict[str, str]:
        """What the job finds in its environment; a token never stands on its command line."""
        given = {"WTB_URL": self.url, "WTB_ACTOR": os.environ.get("WTB_ACTOR") or "ci"}
        token = os.environ.get(TOKEN)
        return {**given, TOKEN: token} if token else given


class Run:
    """One submission and what became of it."""

    def __init__(self, bench: WTBTestBench, jobs: "Jobs", submission: Submission) -> None:
        self.submission = submission
        self._bench = bench
        self._jobs = jobs

    def batch(self) -> Batch | None:
        """The batch, None while it is not made yet."""
        return self._bench.send(calls.find_batch(self.submission.batch_id))

    def attached(self, launch: Launch) -> "Job":
        """The job that runs, or has run, this submission; a new one if there is none.

        Raises:
            Conflict: The submission id belongs to another request.
            Unavailable: The dashboard does not answer.
        """
        attempt, job = self._jobs.newest(self.submission.id)
        if job is not None and not self._cut_off(self._ours(job)):
            say(f"attached to job {job.id} ({job.status.lower()})")
            return job
        id = job_id(self.submission.id, attempt + 1)
        self._submit(id, launch)
        before = f", after job {job.id} was cut off" if job else ""
        say(f"submitted job {id}{before}; its batch is {self.submission.batch_id}")
        return self._ours(self._jobs.submitted(self.submission.id))

    def ended(self, job: "Job", timeout: float | None, progress: Watcher) -> "Job":
        """The job once it has ended; `progress` hears of its batch.

        Raises:
            Unavailable: The time is over, or dashboard or bench have been away for too long;
                job and batch may go on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        seen = time.monotonic()
        while not job.ended:
            if deadline is not None and time.monotonic() >= deadline:
                raise _left(f"job {job.id} is still {job.status} after {timeout:g} s")
            time.sleep(POLL_S)
            try:
                self._tell(progress)
                found = self._jobs.find(job.id)
                seen = time.monotonic()
            except errors.Unavailable as e:
                if time.monotonic() - seen > PATIENCE_S:
                    raise _left(f"{e.message} (for {PATIENCE_S:.0f} s)") from e
                continue
            if found is None:
                raise errors.JobFailed(
                    f"the cluster has lost job {job.id}; the same command goes on with its batch",
                    reason="lost",
                )
            job = found
        self._tell(progress)
        return job

    def outcome(self, job: "Job") -> Batch | None:
        """The batch of a job that has ended; None if the job was stopped before it was made.

        Raises:
            JobFailed: The job ended before its batch did; has the end of its log.
        """
        batch = self.batch()
        unfinished = _unfinished(batch)
        again = "the same command goes on with the batch"
        if job.status == "STOPPED":
            say(f"job {job.id} was stopped" + (f"; {again}" if unfinished else ""), style="red")
        elif unfinished:
            log = "\n".join(self._jobs.log(job.id))
            raise errors.JobFailed(
                f"job {job.id} ended before its batch ({job.message}); {again}; its log ends:\n{log}",
                reason=job.status,
            )
        return batch

    def _submit(self, id: str, launch: Launch) -> None:
        """Submits a job of this id, again and again while the cluster is not ready for one."""
        deadline = time.monotonic() + PATIENCE_S
        with TemporaryDirectory(prefix="wtb-ci-") as folder:
            self.submission.write(Path(folder))
            while True:
                try:
                    return self._jobs.submit(
                        id,
                        launch.entrypoint(self.submission),
                        Path(folder),
                        launch.environment(),
                        {BATCH: self.submission.batch_id, "wtb_project": launch.project},
                    )
                except errors.Unavailable:
                    if time.monotonic() > deadline:
                        raise
                time.sleep(POLL_S)

    def _cut_off(self, job: "Job") -> bool:
        """Whether the job was stopped, or ended and its batch has not: whatever went on with it."""
        return job.status == "STOPPED" or (job.ended and _unfinished(self.batch()))

    def _ours(self, job: "Job") -> "Job":
        if job.metadata.get(BATCH) != self.submission.batch_id:
            raise errors.Conflict(
                f"job {job.id!r} is of another request: give this one an id of its own",
                field="--submission-id",
                reason="other_request",
            )
        return job

    def _tell(self, progress: Watcher) -> None:
        if self.batch() is not None:
            progress(self._bench.send(calls.progress(self.submission.batch_id)))


def _unfinished(batch: Batch | None) -> bool:
    return batch is None or batch.status not in TERMINAL_BATCH


def _left(why: str) -> errors.Unavailable:
    return errors.Unavailable(
        f"{why}; it may go on: the same command waits for it again", reason="not_ended"
    )
