"""The catalogue of what can be wrong: the README's table, the checks and the repairs say the same."""

import string
from pathlib import Path

import pytest

from wtb_ray import errors
from wtb_ray.actors.integrity import CHECKS
from wtb_ray.integrity.findings import CATALOGUE, KINDS
from wtb_ray.integrity.repairing import AGED, DEAD, OBJECTS
from wtb_ray.integrity.reports import finding_id, found, wanted
from wtb_ray.store.repairs import ACTIONS

README = (Path(__file__).parents[2] / "README.md").read_text()
OTHERS = OBJECTS | {"lock_stale", "actor_without_lease"}
"""Repaired without being rows."""


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_readme_has_every_problem_as_the_catalogue_has_it(name: str) -> None:
    entry = CATALOGUE[name]
    repair = entry.repair or f"manual: {entry.advice}"
    row = f"| `{entry.kind}` | `{name}` | {entry.severity} | {entry.means} | {repair} |"
    assert row in README


def test_the_readme_has_no_other_problems() -> None:
    kinds = tuple(f"| `{kind}` | `" for kind in KINDS)
    rows = [line for line in README.splitlines() if line.startswith(kinds)]
    assert len(rows) == len(CATALOGUE)


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_problem_is_looked_for_and_repaired_as_it_says(name: str) -> None:
    entry = CATALOGUE[name]
    assert any(name in check.problems for check in CHECKS)
    assert (entry.repair is not None) == (name in ACTIONS or name in OTHERS)
    assert entry.repair or entry.advice
    named = {field for _, field, _, _ in string.Formatter().parse(entry.says) if field}
    assert entry.ids
    values = dict.fromkeys({*named, *entry.ids}, "x")
    assert "{" not in found(name, values, able=True).message


def test_checks_have_names_of_their_own() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    assert {name for check in CHECKS for name in check.problems} == set(CATALOGUE)
    assert set(CATALOGUE) >= AGED | DEAD | OBJECTS


def test_a_finding_has_the_same_id_everywhere() -> None:
    values = {"cell_id": 7, "batch_id": "b", "scorers": "exact"}
    one = found("scores_missing", values, able=True)
    assert one == found("scores_missing", {**values, "cell_id": "7"}, able=True)
    assert one.id == finding_id("scores_missing", {"cell_id": "7", "batch_id": "b"})
    assert (one.repair, one.severity) == (None, "critical")
    assert one.id != found("scores_foreign", values, able=True).id


def test_what_a_repair_cannot_do_is_a_person_s() -> None:
    values = {"execution_id": "e", "thread_id": "t", "checkpoint_id": "c"}
    assert found("head_missing", values, able=True).advice is None
    unable = found("head_missing", values, able=False)
    assert unable.repair is None
    assert unable.advice == CATALOGUE["head_missing"].advice


def test_only_kinds_and_problems_can_be_asked_for() -> None:
    assert wanted([]) == set(CATALOGUE)
    assert wanted(["orphan_checkpoint", "lock_stale"]) == {"orphan_checkpoint", "lock_stale"}
    assert wanted(["orphan_commit"]) == {"orphan_commit", "orphan_restore"}
    with pytest.raises(errors.InvalidRequest) as e:
        wanted(["orphan_commit", "odd"])
    assert e.value.details["field"] == "only"
