"""A batch that CI submits: one id, from which the ids of its Ray jobs and of its batch follow.

So whoever submits the same again finds the job and the batch that are there.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wtb_ray import api, errors
from wtb_ray.model import Batch, digest
from wtb_ray.sdk import calls

REQUEST_FILE: Final = "request.json"
BATCH: Final = "wtb_batch"
"""Key in the metadata of a Ray job: the id of its batch."""
CI_RUNS: Final = {
    "github": "GITHUB_RUN_ID",
    "gitlab": "CI_PIPELINE_ID",
    "jenkins": "BUILD_TAG",
    "ci": "CI_JOB_ID",
}
"""Variables of CI systems that name a run and stay when a part of the run is tried again."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_OTHER = re.compile(r"[^A-Za-z0-9._-]+", re.ASCII)


@dataclass(frozen=True)
class Submission:
    """What is submitted.

    Args:
        id: Letters, digits, dots, dashes and underscores, 100 at most.
        request: The JSON of an `api.BatchTestRequest`.

    Raises:
        InvalidRequest: This is no id.
    """

    id: str
    request: bytes

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise errors.InvalidRequest(
                f"{self.id!r} is no submission id: it has 1 to 100 letters, digits, '.', '-', '_'",
                field="--submission-id",
                reason="not_an_id",
            )

    @classmethod
    def of(cls, request: api.BatchTestRequest, id: str | None) -> "Submission":
        """The submission of a request; without an id, under the one that it has in this CI run."""
        body = request.model_dump_json().encode()
        return cls(derived_id(body, os.environ) if id is None else id, body)

    @classmethod
    def read(cls, id: str, folder: Path) -> "Submission":
        """The submission whose request was written into a folder."""
        return cls(id, (folder / REQUEST_FILE).read_bytes())

    def write(self, folder: Path) -> None:
        """Writes the request to where `read` finds it."""
        (folder / REQUEST_FILE).write_bytes(self.request)

    @property
    def batch_id(self) -> str:
        """Id of the batch, which may not be there yet."""
        return calls.batch_id_of(self.request, self._key)

    def start(self) -> calls.Call[Batch]:
        """Makes the batch, or finds it."""
        return calls.batch_test_of(self.request, self._key)

    @property
    def _key(self) -> str:
        return f"ci:{self.id}"


def derived_id(request: bytes, environ: Mapping[str, str]) -> str:
    """The same id for the same request in the same CI run; outside of CI, for the same request.

    The request is part of it because the jobs of one CI run share the run's number.
    """
    name = digest(request)[:12]
    for system, variable in CI_RUNS.items():
        if run := _OTHER.sub("-", environ.get(variable, ""))[-60:]:
            return f"{system}-{run}-{name}"
    return f"wtb-{name}"


def job_id(submission_id: str, attempt: int) -> str:
    """Id of the Ray job of an attempt, counted from 1.

    An attempt after a job that was cut off has an id of its own: Ray does not support submitting
    under an id again whose job was deleted, and may take the new job for the dead one.
    """
    return submission_id if attempt == 1 else f"{submission_id}~{attempt}"
