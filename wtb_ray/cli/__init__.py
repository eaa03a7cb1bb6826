"""`wtb`: the bench from the command line.

Talks HTTP through the SDK; only `up`, `down` and `demo` start or stop processes. Answers go to
stdout, everything else to stderr; exit codes are part of the interface.
"""

import typer

import wtb_ray
from wtb_ray.cli import (
    audit,
    batch,
    ci,
    demo,
    doctor,
    events,
    executions,
    integrity,
    limit,
    project,
    run,
    stack,
    steering,
    storage,
    travel,
    venv,
)
from wtb_ray.cli.terminal import Commands

EXIT_CODES = """\b
Exit codes:
  0    ok
  1    error: one line on stderr says what, where and why
  2    the command was not used as it is meant
  3    no result (--strict: a cell failed; ci: the job was stopped); audit: tampered with; files: damaged; integrity: not healthy
  130  interrupted; what was started on the bench goes on

\b
Environment:
  WTB_URL       address of the bench; default: the local stack
  WTB_TOKEN     token that the bench is sent
  WTB_DATA_DIR  folder of the local stack; default: .wtb
  WTB_ACTOR     whom the event log names; default: <user>@cli
"""

app = typer.Typer(
    name="wtb",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"wtb-ray {wtb_ray.__version__}")
        raise typer.Exit


@app.callback()
def wtb(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """A test bench for LangGraph workflows: run variants on cases, and see which is better."""


app.add_typer(stack.app)
app.add_typer(demo.app)
app.add_typer(project.app, name="project")
app.add_typer(run.app)
app.add_typer(batch.app, name="batch")
app.add_typer(batch.boards)
app.add_typer(ci.app, name="ci")
executions.app.add_typer(steering.app)
executions.app.add_typer(travel.app)
app.add_typer(executions.app, name="exec")
app.add_typer(events.app)
app.add_typer(audit.app, name="audit")
app.add_typer(venv.app, name="venv")
app.add_typer(integrity.app, name="integrity")
app.add_typer(limit.app, name="limit")
app.add_typer(storage.app, name="files")
app.add_typer(stack.db, name="db")
app.add_typer(doctor.app)


def main() -> None:
    """The `wtb` script."""
    app()
