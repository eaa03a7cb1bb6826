"""`wtb venv`: environments, what is installed in them and where, and the room they take."""

from collections.abc import Iterable
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from wtb_ray.cli import options
from wtb_ray.cli.terminal import answer, say
from wtb_ray.environment import Environment, EnvironmentView, EnvSpec

app = typer.Typer(
    no_args_is_help=True, help="Look at environments, build them ahead, and make room."
)

SHORT = 12
Digest = Annotated[str, typer.Argument(metavar="DIGEST", help="An environment's digest.")]


def _asks(spec: EnvSpec) -> str:
    parts = [*spec.packages]
    parts += ["requirements"] if spec.requirements else []
    parts += ["lock"] if spec.lock else []
    parts += [f"{name}=..." for name in spec.env_vars]
    parts += [f"secret {name}" for name in spec.secrets]
    return ", ".join(parts) or "that of the bench"


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="N", help="The newest N.")] = 50,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """List environments that were asked for, newest first."""
    with options.connect(url) as bench:
        found = bench.list_environments(limit)
    table = Table("digest", "asks for", "packages", "created", box=None)
    for one in found:
        size = "" if one.packages is None else str(len(one.packages))
        created = f"{one.created_at:%Y-%m-%d %H:%M:%S}"
        table.add_row(one.digest[:SHORT], escape(_asks(one.spec)), size, created)
    answer(found, as_json, table)


@app.command()
def show(digest: Digest, as_json: options.AsJson = False, url: options.Url = None) -> None:
    """Show what is installed in an environment, and on which hosts it is built."""
    with options.connect(url) as bench:
        found = bench.get_environment(_whole(bench.list_environments(), digest))
    answer(found, as_json, *_shown(found))


@app.command()
def build(
    package: Annotated[
        list[str], typer.Argument(metavar="PACKAGE...", help="Requirements, as 'pandas>=2'.")
    ],
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build it anew, also when it failed before.")
    ] = False,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Build an environment ahead of time.

    \b
    Example:
      wtb venv build 'pandas>=2' scikit-learn
    """
    say("building ...")
    with options.connect(url) as bench:
        found = bench.create_environment(EnvSpec(packages=tuple(package)), rebuild)
    answer(found, as_json, *_shown(found))


@app.command()
def remove(digest: Digest, url: options.Url = None) -> None:
    """Forget an environment; what is built of it goes once nobody runs in it."""
    with options.connect(url) as bench:
        gone = bench.delete_environment(_whole(bench.list_environments(), digest))
    say(f"forgotten: {gone.digest}")


@app.command()
def stats(as_json: options.AsJson = False, url: options.Url = None) -> None:
    """Show hits, builds, failures and sizes of the caches, by host."""
    with options.connect(url) as bench:
        found = bench.environment_stats()
    table = Table("host", "environments", "MB", "hits", "misses", "failures", "evicted", box=None)
    for one in found:
        counts = (one.hits, one.misses, one.failures, one.evictions)
        room = f"{one.bytes / 1e6:.0f}"
        table.add_row(one.host[:SHORT], str(one.entries), room, *map(str, counts))
    answer(found, as_json, table)


@app.command()
def prune(
    delete: Annotated[
        bool, typer.Option("--delete", help="Really remove; else only say what would go.")
    ] = False,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Remove environments that were not used for long, are invalid, or take too much room."""
    with options.connect(url) as bench:
        found = bench.prune_environments(dry_run=not delete)
    table = Table("host", "removed" if delete else "would go", "MB", "because of", box=None)
    for host in found:
        for gone in host.gone:
            room = f"{gone.bytes / 1e6:.0f}"
            table.add_row(host.host[:SHORT], gone.venv[:SHORT], room, gone.reason)
    stay = sum(host.entries for host in found)
    answer(found, as_json, table, Text(f"{stay} stay"))


def _whole(known: Iterable[Environment], digest: str) -> str:
    """The digest that begins like this one, if there is just one; else the given one."""
    found = [one.digest for one in known if one.digest.startswith(digest)]
    return found[0] if len(found) == 1 else digest


def _shown(found: EnvironmentView) -> Iterable[Text | Table]:
    yield Text(f"{found.digest}\nasks for: {_asks(found.spec)}")
    packages = Table("package", "version", box=None)
    for name, version in sorted((found.packages or {}).items()):
        packages.add_row(escape(name), escape(version))
    yield packages
    hosts = Table("host", "status", "MB", "built in", "hits", "where or why", box=None)
    for one in found.venvs:
        why = one.error["message"] if one.error else one.path or ""
        took = "" if one.build_s is None else f"{one.build_s:.1f} s"
        room = f"{one.bytes / 1e6:.0f}"
        hosts.add_row(one.host[:SHORT], one.status, room, took, str(one.hits), escape(why))
    if found.venvs:
        yield hosts
