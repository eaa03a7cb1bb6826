"""Ray jobs through the cluster's dashboard: the only part of the CLI that imports Ray.

Every answer that does not come is `Unavailable`, so that whoever waits can ask again.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from wtb_ray import errors
from wtb_ray.cli.submissions import BATCH, job_id
from wtb_ray.model import Frozen

ANSWER_TIMEOUT_S: Final = 30.0
ADDRESS_VARIABLE: Final = "RAY_API_SERVER_ADDRESS"
Status = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]
_STATUS_CODE = re.compile(r"status code (\d+)")


class Job(Frozen):
    """A Ray job as its cluster shows it."""

    id: str
    status: Status
    message: str | None = None
    metadata: dict[str, str]

    @property
    def ended(self) -> bool:
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")


class _Client(JobSubmissionClient):  # type: ignore[misc]  # Ray has no types
    """Ray's client, which by itself waits for an answer for ever."""

    def _do_request(self, *args: Any, **kwargs: Any) -> Any:
        return super()._do_request(*args, **{"timeout": ANSWER_TIMEOUT_S, **kwargs})


class Jobs:
    """The jobs of a cluster.

    Args:
        dashboard: `http://host:port` of its dashboard.

    Raises:
        Unavailable: Nothing answers there.
        Refused: The cluster wants a token (`RAY_AUTH_MODE`, `RAY_AUTH_TOKEN`), or another one.
    """

    def __init__(self, dashboard: str) -> None:
        self._dashboard = dashboard
        with self._answers(), _addressed(dashboard):
            self._client = _Client(dashboard)

    def find(self, id: str) -> Job | None:
        """The job of this id, None if there is none."""
        try:
            with self._answers():
                found = self._client.get_job_info(id)
        except errors.NotFound:
            return None
        return Job(
            id=id,
            status=str(found.status.value),
            message=found.message,
            metadata=found.metadata or {},
        )

    def newest(self, submission_id: str) -> tuple[int, Job | None]:
        """The newest job of a submission and which attempt it is; 0 and None if there is none."""
        attempt, newest = 0, None
        while (job := self.find(job_id(submission_id, attempt + 1))) is not None:
            attempt, newest = attempt + 1, job
        return attempt, newest

    def submitted(self, submission_id: str) -> Job:
        """The newest job of a submission.

        Raises:
            NotFound: Nothing was submitted under this id.
            Conflict: Somebody else submitted a job of this id.
        """
        job = self.newest(submission_id)[1]
        if job is None:
            raise errors.NotFound(
                f"no job was submitted as {submission_id!r} to {self._dashboard}",
                field="submission",
                reason="unknown",
            )
        if BATCH not in job.metadata:
            raise errors.Conflict(
                f"job {job.id!r} was not submitted by `wtb ci run`",
                field="submission",
                reason="not_a_batch",
            )
        return job

    def submit(
        self,
        id: str,
        entrypoint: str,
        folder: Path,
        environment: dict[str, str],
        metadata: dict[str, str],
    ) -> None:
        """Submits a job that runs in a copy of the folder, unless there is one of this id.

        The process that runs the entrypoint takes no CPU from the cluster's own work.
        """
        try:
            with self._answers():
                self._client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=id,
                    runtime_env={"working_dir": str(folder), "env_vars": environment},
                    metadata=metadata,
                    entrypoint_num_cpus=0,
                )
        except errors.WTBError:
            if self.find(id) is None:  # else somebody else was faster, or only the answer was lost
                raise

    def log(self, id: str, lines: int = 20) -> list[str]:
        """The last lines that a job has printed."""
        with self._answers():
            text: str = self._client.get_job_logs(id)
        return text.splitlines()[-lines:]

    @contextmanager
    def _answers(self) -> Iterator[None]:
        """Turns what Ray's client raises into the bench's own errors."""
        where = f"the Ray dashboard at {self._dashboard}"
        try:
            yield
        except OSError as e:  # also of requests, which Ray's client lets through
            raise errors.Unavailable(
                f"{where} does not answer: {e}", field="--dashboard", reason=type(e).__name__
            ) from e
        except AuthenticationError as e:
            raise errors.Refused(f"{where} refuses: {e}", field="RAY_AUTH_TOKEN") from e
        except RuntimeError as e:
            raise _refusal(where, str(e)) from e


def _refusal(where: str, text: str) -> errors.WTBError:
    found = _STATUS_CODE.search(text)
    status = int(found[1]) if found else 0
    message = f"{where} answered: {' '.join(text.split())[-500:]}"
    if status == 404:
        return errors.NotFound(message)
    # A cluster that has just started says 500 for a while: no agent takes jobs yet.
    if status in (429, 502, 503, 504) or "try again later" in text:
        return errors.Unavailable(message, field="--dashboard", reason=status)
    return errors.WTBError(message, field="--dashboard", reason=status or "refused")


@contextmanager
def _addressed(dashboard: str) -> Iterator[None]:
    """Ray's client takes the address from its environment before any argument."""
    before = os.environ.get(ADDRESS_VARIABLE)
    os.environ[ADDRESS_VARIABLE] = dashboard
    try:
        yield
    finally:
        del os.environ[ADDRESS_VARIABLE]
        if before is not None:
            os.environ[ADDRESS_VARIABLE] = before
