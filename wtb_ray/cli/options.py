"""Option types that several commands share, and the small languages of their values.

A value that cannot be read is a usage error (exit code 2) that names the option and the reason.
"""

import itertools
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer
from pydantic import ValidationError

from wtb_ray import errors
from wtb_ray.model import ScorerSpec
from wtb_ray.sdk import WTBTestBench, identity, local
from wtb_ray.settings import Settings

TOKEN: Final = "WTB_TOKEN"  # noqa: S105  # the name of a variable
"""Environment variable with the token that the bench is sent."""

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="WTB_URL",
        metavar="URL",
        help="Address of the bench; default: the local stack.",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON on stdout and everything else on stderr.")
]
Limit = Annotated[
    int, typer.Option("--limit", min=1, max=500, metavar="N", help="At most so many rows.")
]
After = Annotated[
    str | None,
    typer.Option("--after", metavar="CURSOR", help="Go on where a page ended: its `next`."),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        file_okay=False,
        help="Folder of the local stack; default: WTB_DATA_DIR, else .wtb.",
    ),
]


def settings(**given: Any) -> Settings:
    """The settings of the environment, with what was given as options; None counts as not given.

    Raises:
        ConfigurationError: One of them cannot be used.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        name = f"WTB_{'.'.join(map(str, first['loc'])).upper()}"
        raise errors.ConfigurationError(
            f"{name}: {first['msg']}", field=name, reason=first["type"]
        ) from e


def connect(url: str | None) -> WTBTestBench:
    """The bench at the URL, or the local stack, which is never started by this.

    Raises:
        Unavailable: No URL, and no local stack runs.
    """
    if url is None:
        data_dir = settings().data_dir
        stack = local.running(data_dir)
        if stack is None:
            raise errors.Unavailable(
                f"no local stack runs in {data_dir}: start it with `wtb up`,"
                " or say where a bench is with --url or WTB_URL",
                reason="not_running",
            )
        url = stack.url
    return WTBTestBench(url, os.environ.get(TOKEN) or None, actor=identity.caller("cli"))


def json_value(text: str, option: str) -> Any:
    """The value of JSON text, of the file that `@path` names, or of stdin for `@-`."""
    source = "the value"
    raw: str | bytes = text
    if text.startswith("@"):
        source, raw = text[1:], _content(text[1:], option)
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as e:
        reason = f"{e.msg} at line {e.lineno}, column {e.colno}"
        raise typer.BadParameter(f"{source} is not JSON: {reason}", param_hint=option) from e


def _content(name: str, option: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).expanduser().read_bytes()
    except OSError as e:
        raise typer.BadParameter(f"cannot read {name}: {e.strerror}", param_hint=option) from e


def json_object(text: str, option: str) -> dict[str, Any]:
    """A JSON object, written out or as `@path`."""
    value = json_value(text, option)
    if not isinstance(value, dict):
        raise typer.BadParameter("a JSON object is needed", param_hint=option)
    return value


def pair(text: str, option: str, form: str = "name=value") -> tuple[str, str]:
    """The two sides of the first `=`."""
    left, equals, right = text.partition("=")
    if not (left.strip() and equals and right.strip()):
        raise typer.BadParameter(f"{text!r} is not of the form {form}", param_hint=option)
    return left.strip(), right.strip()


def binding(pairs: list[str], option: str = "--variant") -> dict[str, str]:
    """`{node: variant}` of `node=variant` values; a node may be given once."""
    found: dict[str, str] = {}
    for text in pairs:
        node, variant = pair(text, option, "node=variant")
        if node in found:
            raise typer.BadParameter(f"{node!r} is given twice", param_hint=option)
        found[node] = variant
    return found


def matrix(variants: list[str], grid: list[str]) -> list[dict[str, str]]:
    """Bindings of `--variants` values, followed by the product of the `--grid` values."""
    found = [row for text in variants for row in _rows(text)]
    if grid:
        found += _product(grid)
    if not found:
        raise typer.BadParameter(
            "at least one is needed, e.g. --variants retrieve=bm25,rerank=overlap"
            " (--variants _name=baseline runs the project as it is)",
            param_hint="--variants / --grid",
        )
    return found


def _rows(text: str) -> list[dict[str, str]]:
    option = "--variants"
    if not text.startswith(("@", "[", "{")):
        return [binding(text.split(","), option)]
    value = json_value(text, option)
    rows = [value] if isinstance(value, dict) else value
    if not isinstance(rows, list) or not all(map(_is_binding, rows)):
        raise typer.BadParameter(
            'JSON must be a list of objects {"node": "variant"}', param_hint=option
        )
    return rows


def _is_binding(row: Any) -> bool:
    return isinstance(row, dict) and all(isinstance(value, str) for value in row.values())


def _product(grid: list[str]) -> list[dict[str, str]]:
    axes = [
        [(node, variant) for variant in _choices(choices)]
        for node, choices in binding(grid, "--grid").items()
    ]
    return [dict(combination) for combination in itertools.product(*axes)]


def _choices(text: str) -> list[str]:
    found = [choice.strip() for choice in text.split(",")]
    if not all(found):
        raise typer.BadParameter(
            f"{text!r} is not of the form variant,variant", param_hint="--grid"
        )
    return found


def budget(pairs: list[str]) -> dict[str, float]:
    """`{name: amount}` of `name=amount` values; which there are, and how small, the bench says."""
    named = (pair(text, "--budget", "name=amount") for text in pairs)
    return {name: _amount(amount, "--budget") for name, amount in named}


def budget_changes(pairs: list[str]) -> dict[str, float | None]:
    """The same, with None for `name=none`."""
    named = (pair(text, "NAME=AMOUNT", "name=amount") for text in pairs)
    return {n: None if a == "none" else _amount(a, "NAME=AMOUNT") for n, a in named}


def _amount(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError as e:
        raise typer.BadParameter(f"{text!r} is no number", param_hint=option) from e


def scorer(text: str) -> ScorerSpec:
    """A scorer of `name` or `name:{JSON arguments}`; the name may be an import path `pkg.mod:f`."""
    name, brace, rest = text.partition(":{")
    if not name.strip():
        raise typer.BadParameter(f"{text!r} names no scorer", param_hint="--scorer")
    args = json_object("{" + rest, "--scorer") if brace else {}
    return ScorerSpec(name=name.strip(), args=args)
