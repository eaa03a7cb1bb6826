"""What a batch leaves behind for CI: leaderboard, results and a JUnit report, as files.

Each file appears complete or not at all; one that is there is replaced.
"""

import os
import re
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as Xml  # written, never read

from rich.console import Console

from wtb_ray import api, errors
from wtb_ray.cli import board
from wtb_ray.cli.terminal import PIPE_WIDTH, json_text
from wtb_ray.model import Batch
from wtb_ray.states import CellStatus

_UNPRINTABLE: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, however it is escaped."""


def write(
    directory: Path, batch: Batch, found: api.Leaderboard, results: Sequence[api.CellResult]
) -> list[Path]:
    """Writes all reports into a directory, which is made.

    Raises:
        WTBError: They could not be written; says why.
    """
    rows = (json_text(row, indent=False) for row in results)
    texts = {
        "leaderboard.json": json_text(found) + "\n",
        "leaderboard.txt": _plain(found),
        "results.jsonl": "".join(f"{row}\n" for row in rows),
        "junit.xml": junit(batch, results),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return [_replace(directory / name, text) for name, text in texts.items()]
    except OSError as e:
        raise errors.WTBError(
            f"cannot write into {directory}: {e.strerror}", field="--out", reason=type(e).__name__
        ) from e


def _plain(found: api.Leaderboard) -> str:
    console = Console(width=PIPE_WIDTH, color_system=None, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(board.leaderboard(found, PIPE_WIDTH))
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def _replace(place: Path, text: str) -> Path:
    partial = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        with partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        return partial.replace(place)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def junit(batch: Batch, results: Iterable[api.CellResult]) -> str:
    """A test suite a variant, a test case a cell: failed cells are failures, the rest that is not done
    is skipped, and scores are printed in the test's output."""
    suites: dict[str, Xml.Element] = {}
    root = Xml.Element("testsuites", name=_text(f"{batch.project} {batch.id}"))
    for cell in results:
        if cell.variant not in suites:
            suites[cell.variant] = Xml.SubElement(root, "testsuite", name=_text(cell.variant))
        suites[cell.variant].append(_case(batch, cell))
    for element in (*suites.values(), root):
        for name, tag in (("tests", "testcase"), ("failures", "failure"), ("skipped", "skipped")):
            element.set(name, str(sum(1 for _ in element.iter(tag))))
        element.set("errors", "0")
    Xml.indent(root)
    return Xml.tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def _case(batch: Batch, cell: api.CellResult) -> Xml.Element:
    repetition = f" #{cell.repetition + 1}" if batch.repetitions > 1 else ""
    case = Xml.Element(
        "testcase",
        classname=_text(f"{batch.project}.{cell.variant}"),
        name=_text(f"{cell.case_id}{repetition}"),
        time=f"{(cell.latency_ms or 0) / 1000:.3f}",
    )
    if cell.status == CellStatus.FAILED:
        error = cell.error or {}
        kind, message = str(error.get("type", "")), str(error.get("message", "no error is known"))
        failure = Xml.SubElement(case, "failure", type=_text(kind), message=_text(message))
        failure.text = _text(str(error.get("traceback") or message))
    elif cell.status != CellStatus.DONE:
        Xml.SubElement(case, "skipped", message=cell.status.lower())
    facts = [f"{metric} = {value}" for metric, value in cell.scores.items()]
    if cell.execution_id:
        facts.append(f"execution = {cell.execution_id}")
    Xml.SubElement(case, "system-out").text = _text("\n".join(facts))
    return case


def _text(text: str) -> str:
    return _UNPRINTABLE.sub("�", text)
