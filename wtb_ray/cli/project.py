"""`wtb project`: register workflows, look at them, deactivate and remove them."""

import sys
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from rich.text import Text

from wtb_ray import api
from wtb_ray.cli import options, render
from wtb_ray.cli.terminal import answer, say
from wtb_ray.sdk import FileTrackingConfig, WorkflowProject, WorkspaceIsolationConfig, calls

app = typer.Typer(
    no_args_is_help=True, help="Register workflows, look at them, deactivate and remove them."
)

Config = TypeVar("Config", bound=BaseModel)

Project = Annotated[str, typer.Argument(metavar="PROJECT", help="Name of a registered project.")]
Version = Annotated[
    str | None,
    typer.Option("--version", metavar="DIGEST", help="A version's digest; default: the newest."),
]


Entry = Annotated[
    str,
    typer.Argument(
        metavar="ENTRY", help="Import path of the graph or its factory: package.module:name."
    ),
]
Name = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="Name; default: the last part of the module."),
]
Root = Annotated[
    Path | None,
    typer.Option(
        "--root",
        metavar="DIR",
        exists=True,
        file_okay=False,
        help="Folder that is sent to the bench; default: the project folder of the entry.",
    ),
]
Variant = Annotated[
    list[str] | None,
    typer.Option(
        "--variant", metavar="VARIANT", help="node=name=package.module:function; repeatable."
    ),
]
Param = Annotated[
    list[str] | None,
    typer.Option(
        "--param", metavar="PARAM", help="node=name=key=JSON, a parameter of a variant; repeatable."
    ),
]
Workflow = Annotated[
    list[str] | None,
    typer.Option(
        "--workflow",
        metavar="GRAPH",
        help="name=package.module:factory, another graph; repeatable.",
    ),
]
FileTracking = Annotated[
    str | None,
    typer.Option(
        "--file-tracking",
        metavar="JSON",
        help="Keep files with every checkpoint: {} or fields of FileTrackingConfig, or @file.",
    ),
]
Workspace = Annotated[
    str | None,
    typer.Option(
        "--workspace", metavar="JSON", help="Fields of WorkspaceIsolationConfig, or @file."
    ),
]


@app.command()
def register(
    entry: Entry,
    name: Name = None,
    root: Root = None,
    variant: Variant = None,
    param: Param = None,
    workflow: Workflow = None,
    description: Annotated[
        str, typer.Option("--description", metavar="TEXT", help="For people.")
    ] = "",
    file_tracking: FileTracking = None,
    workspace: Workspace = None,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Send a project's code to the bench and register it.

    The same code and options give the same version, however often they are registered.

    \b
    Examples:
      wtb project register agents.support:build --name support
      wtb project register rag.graph:build --variant retrieve=bm25=rag.nodes:bm25
      wtb project register rag.graph:build --param answer=long=max_words=200
      wtb project register ml.graph:build --file-tracking '{"ignore_patterns": ["*.tmp"]}'
    """
    _importable_from(root or Path.cwd())
    module = entry.partition(":")[0]
    project = WorkflowProject(
        name or module.rpartition(".")[2],
        entry,
        root=root,
        description=description,
        file_tracking=_config(FileTrackingConfig, file_tracking, "--file-tracking"),
        workspace_isolation=_config(WorkspaceIsolationConfig, workspace, "--workspace"),
    )
    for (node, variant_name), (implementation, params) in _variants(variant, param).items():
        project.register_variant(node, variant_name, implementation, params)
    for text in workflow or []:
        graph = options.pair(text, "--workflow", "name=package.module:factory")
        project.register_workflow_variant(*graph)
    with options.connect(url) as bench:
        version = bench.register_project(project)
    say(f"registered {version.project} as version {version.version[: render.SHORT]}")
    answer(version, as_json, render.project(version))


def _config(kind: type[Config], text: str | None, option: str) -> Config | None:
    """A configuration of the fields that are given; None where the option is not."""
    if text is None:
        return None
    try:
        return kind(**options.json_object(text, option))
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise typer.BadParameter(f"{where}: {first['msg']}", param_hint=option) from e


def _importable_from(folder: Path) -> None:
    """What the user's code says it imports is looked for where it would be from its folder."""
    for place in (folder.resolve() / "src", folder.resolve()):
        if place.is_dir() and str(place) not in sys.path:
            sys.path.insert(0, str(place))


Variants = dict[tuple[str, str], tuple[str | None, dict[str, object] | None]]


def _variants(implementations: list[str] | None, params: list[str] | None) -> Variants:
    """`{(node, name): (implementation, params)}` of both options together."""
    found: Variants = {}
    for text in implementations or []:
        form = "node=name=package.module:function"
        node, rest = options.pair(text, "--variant", form)
        name, implementation = options.pair(rest, "--variant", form)
        if (node, name) in found:
            raise typer.BadParameter(f"{node}={name} is given twice", param_hint="--variant")
        found[node, name] = (implementation, None)
    for text in params or []:
        form = "node=name=key=JSON"
        node, rest = options.pair(text, "--param", form)
        name, rest = options.pair(rest, "--param", form)
        key, value = options.pair(rest, "--param", form)
        path, values = found.get((node, name), (None, None))
        found[node, name] = (path, {**(values or {}), key: options.json_value(value, "--param")})
    return found


@app.command("list")
def list_projects(as_json: options.AsJson = False, url: options.Url = None) -> None:
    """List the newest version of every project."""
    with options.connect(url) as bench:
        found = bench.list_projects()
    answer(api.Page(items=found), as_json, render.projects(found))


@app.command()
def show(
    project: Project,
    version: Version = None,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """Show a project: its graph, nodes and variants."""
    with options.connect(url) as bench:
        found = bench.send(calls.project(project, version))
    answer(found, as_json, render.project(found))


@app.command()
def nodes(
    project: Project,
    version: Version = None,
    as_json: options.AsJson = False,
    url: options.Url = None,
) -> None:
    """List the nodes of a project with their variants."""
    with options.connect(url) as bench:
        found = bench.send(calls.nodes(project, version))
    answer(found, as_json, render.nodes(found))


@app.command()
def activate(project: Project, as_json: options.AsJson = False, url: options.Url = None) -> None:
    """Let executions and batches of a project start again."""
    with options.connect(url) as bench:
        found = bench.activate_project(project)
    answer(found, as_json, Text(f"{found.project} is active"))


@app.command()
def deactivate(project: Project, as_json: options.AsJson = False, url: options.Url = None) -> None:
    """Let nothing new of a project start.

    What runs goes on, open batches to their end; paused executions can be resumed.
    """
    with options.connect(url) as bench:
        found = bench.deactivate_project(project)
    answer(found, as_json, Text(f"{found.project} is deactivated: nothing new of it starts"))


@app.command()
def remove(project: Project, as_json: options.AsJson = False, url: options.Url = None) -> None:
    """Take a project away of which nothing runs.

    Its name is free for another one; its executions, batches and events can be read as before.

    \b
    Examples:
      wtb project remove support
      wtb exec list --project support      # what it ran is still there
    """
    with options.connect(url) as bench:
        found = bench.remove_project(project)
    last = f"its newest version was {found.version[: render.SHORT]}"
    answer(found, as_json, Text(f"removed {found.project}; {last}"))
