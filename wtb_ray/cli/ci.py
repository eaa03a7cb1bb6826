"""`wtb ci`: a batch as a Ray job, submitted from CI and safe to submit again.

The exit code comes from the batch as the bench has it, never from what the job prints. Who waits
here may go away: job and batch go on, and the same command finds them again.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import typer
from rich.text import Text

from wtb_ray import model
from wtb_ray.cli import batch as batches
from wtb_ray.cli import board, options, render, reports
from wtb_ray.cli.ci_runs import Launch, Run
from wtb_ray.cli.progress import batch_progress
from wtb_ray.cli.submissions import BATCH, Submission
from wtb_ray.cli.terminal import EXIT_FAILED, EXIT_INTERRUPTED, answer, program, say, stdout
from wtb_ray.sdk import WTBTestBench, calls, flows, local

if TYPE_CHECKING:
    from wtb_ray.cli.jobs import Job, Jobs

app = typer.Typer(no_args_is_help=True, help="Run batches as Ray jobs, from CI.")

Dashboard = Annotated[
    str | None,
    typer.Option(
        "--dashboard",
        envvar="RAY_API_SERVER_ADDRESS",
        metavar="URL",
        help="The cluster's dashboard; default: WTB_DASHBOARD_PORT where the bench is.",
    ),
]
SubmissionId = Annotated[
    str | None,
    typer.Option(
        "--submission-id",
        metavar="ID",
        help="Id of the Ray job; default: made of the CI run's number and the request.",
    ),
]
ClusterUrl = Annotated[
    str | None,
    typer.Option(
        "--cluster-url", metavar="URL", help="Where the job finds the bench; default: as --url."
    ),
]
Python = Annotated[
    str | None,
    typer.Option(
        "--python",
        metavar="PROGRAM",
        help="The cluster's Python with wtb-ray; default: python, for the local stack this one.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", file_okay=False, help="Where reports are written."),
]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", min=0, metavar="S", help="Seconds to wait at most; it goes on then."),
]


@app.command()
def run(
    project: batches.Project,
    cases: batches.Cases,
    variants: batches.Variants = None,
    grid: batches.Grid = None,
    scorer: batches.Scorers = None,
    repetitions: batches.Repetitions = 1,
    node_errors: batches.NodeErrors = "zero",
    share_nothing: batches.ShareNothing = False,
    interrupts: batches.Interrupts = "fail",
    budget: batches.Budgets = None,
    version: batches.Version = None,
    deadline: batches.Deadline = None,
    strict: batches.Strict = False,
    submission_id: SubmissionId = None,
    out: Out = None,
    timeout: Timeout = None,
    dashboard: Dashboard = None,
    cluster_url: ClusterUrl = None,
    python: Python = None,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Run a batch as a Ray job, wait for its end, and write reports.

    Submitting the same again in the same CI run attaches to the job that is there; one that was cut
    off is submitted anew and goes on with its batch. Ends with exit code 3 when the batch fails or
    is stopped or its job is stopped, with --strict also when a cell failed.

    --out gets leaderboard.json, leaderboard.txt, results.jsonl and junit.xml. The job gets WTB_TOKEN.

    \b
    Examples:
      wtb ci run rag --cases cases.jsonl --scorer exact --grid rerank=overlap,name --out reports
      wtb ci run rag --cases cases.csv --variants _name=baseline --submission-id nightly-12 --strict
    """
    rows = options.matrix(variants or [], grid or [])
    specs = [options.scorer(text) for text in scorer or []]
    with options.connect(url) as bench:
        # The version is named so that submitting again later means the same.
        pinned = version or bench.send(calls.project(project)).version
        more = {
            "repetitions": repetitions,
            "node_errors": node_errors,
            "share_prefix": not share_nothing,
            "interrupts": interrupts,
            "version": pinned,
            "deadline_s": deadline,
            "budget": options.budget(budget) if budget else None,
        }
        request = flows.batch_request(project, bench.codes[project], rows, cases, specs, more)
        submission = Submission.of(request, submission_id)
        program_there = python or ("python" if url else sys.executable)
        launch = Launch(project, cluster_url or bench.url, program_there)
        submitted = Run(bench, _jobs(dashboard, bench, url), submission)
        job = _ended(submitted, launch, timeout)
        batch = submitted.outcome(job)
        _show(bench, submission, job, batch, out, as_json)
    if job.status == "STOPPED" or batch is None or not batches.passed(batch, strict):
        raise typer.Exit(EXIT_FAILED)


@app.command()
def status(
    submission: Annotated[
        str, typer.Argument(metavar="SUBMISSION", help="Id that `wtb ci run` has printed.")
    ],
    dashboard: Dashboard = None,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Show the Ray job of a submission, and how far its batch is."""
    with options.connect(url) as bench:
        job = _jobs(dashboard, bench, url).submitted(submission)
        batch = bench.send(calls.find_batch(job.metadata[BATCH]))
    views = [] if batch is None else [Text(), render.batch(batch)]
    answer({"job": job, "batch": batch}, as_json, _facts(job), *views)


def _jobs(dashboard: str | None, bench: WTBTestBench, url: str | None) -> "Jobs":
    """The jobs of the cluster that the options mean."""
    from wtb_ray.cli.jobs import Jobs  # noqa: PLC0415  # Ray takes longer to import than all else

    settings = options.settings()
    stack = None if url else local.running(settings.data_dir)
    where = dashboard or (stack and stack.dashboard)
    where = where or f"http://{httpx.URL(bench.url).host}:{settings.dashboard_port}"
    if not where.startswith(("http://", "https://")):
        raise typer.BadParameter(
            f"{where!r} does not begin with http:// or https://", param_hint="--dashboard"
        )
    return Jobs(where.rstrip("/"))


def _ended(run: Run, launch: Launch, timeout: float | None) -> "Job":
    """The job, found or submitted, once it has ended."""
    try:
        job = run.attached(launch)
        with batch_progress(launch.project) as progress:
            return run.ended(job, timeout, progress)
    except KeyboardInterrupt:
        id = run.submission.id
        say(
            "interrupted; job and batch go on: the same command waits for them again,"
            f" {program()} ci status {id} shows them,"
            f" {program()} batch stop {run.submission.batch_id} stops them"
        )
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _show(
    bench: WTBTestBench,
    submission: Submission,
    job: "Job",
    batch: model.Batch | None,
    out: Path | None,
    as_json: bool,
) -> None:
    found = None if batch is None else bench.leaderboard(batch.id)
    views: list[Any] = [_facts(job)]
    if batch is not None and found is not None:
        if out is not None:
            for place in reports.write(out, batch, found, bench.results(batch.id)):
                say(f"wrote {place}")
        views += [Text(), render.batch(batch), Text(), board.leaderboard(found, stdout().width)]
    value = {"submission": submission.id, "job": job, "batch": batch, "leaderboard": found}
    answer(value, as_json, *views)


def _facts(job: "Job") -> Any:
    return render.facts([("Ray job", job.id), ("status", job.status), ("message", job.message)])
