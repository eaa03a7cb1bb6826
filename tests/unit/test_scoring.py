"""Scorers: what each built-in one gives, how they are found, and how misuse is told."""

import asyncio
import pickle
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import pytest
from pydantic import BaseModel

from tests import scorers
from wtb_ray import errors, scoring
from wtb_ray.model import Case, Score, ScorerSpec
from wtb_ray.scoring import CellOutcome, scorer
from wtb_ray.scoring.text import words


async def scored(
    name: str, state: Mapping[str, Any], expected: Any = None, **args: Any
) -> tuple[float | None, str | None]:
    """Value and explanation that a scorer of one metric gives."""
    outcome = CellOutcome(Case(id="c1", input={"q": 1}, expected=expected), state)
    (found,) = await scoring.score(ScorerSpec(name=name, args=args), outcome)
    return found.value, found.explanation


async def value(name: str, answer: Any, expected: Any = None, **args: Any) -> float | None:
    field = str(args.get("field", "documents" if name in ("recall_at_k", "mrr") else "answer"))
    return (await scored(name, {field: answer}, expected, **args))[0]


@pytest.mark.parametrize(
    ("answer", "expected", "args", "score"),
    [
        ("Paris", "Paris", {}, 1),
        (" Paris\n", "Paris", {}, 1),
        (" Paris", "Paris", {"strip": False}, 0),
        ("paris", "Paris", {}, 0),
        ("paris", "Paris", {"ignore_case": True}, 1),
        ("Rome", ["Roma", "Rome"], {}, 1),
        (["a", "b"], ["a", "b"], {}, 1),
        (("a", "b"), ["a", "b"], {}, 1),
        (["b", "a"], ["a", "b"], {}, 0),
        (1, 1.0, {}, 1),
        (True, 1, {}, 0),
        (1, True, {}, 0),
        ({"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}, {}, 1),
        ({"a": [1, {"b": False}]}, {"a": [1, {"b": 0}]}, {}, 0),
    ],
)
async def test_exact(answer: Any, expected: Any, args: dict[str, Any], score: float) -> None:
    assert await value("exact", answer, expected, **args) == score


@pytest.mark.parametrize(
    ("answer", "expected", "args", "score"),
    [
        ("It is PARIS.", "paris", {}, 1),
        ("It is PARIS.", "paris", {"ignore_case": False}, 0),
        ("the answer is 42", 42, {}, 1),
        ("only one", ["one", "two"], {}, 1),
        ("only one", ["one", "two"], {"match": "all"}, 0),
        ("two, one", ["one", "two"], {"match": "all"}, 1),
        (["a", "B"], "b", {}, 1),
        ([1, 2], 3, {}, 0),
        (7, "7", {}, 0),
    ],
)
async def test_includes(answer: Any, expected: Any, args: dict[str, Any], score: float) -> None:
    assert await value("includes", answer, expected, **args) == score


@pytest.mark.parametrize(
    ("answer", "expected", "args", "score"),
    [
        ("order 12 shipped", None, {"pattern": r"\d+"}, 1),
        ("order 12 shipped", None, {"pattern": r"\d+", "full": True}, 0),
        ("Yes", r"^(yes|no)$", {"ignore_case": True}, 1),
        ("Yes", r"^(yes|no)$", {}, 0),
        ("b", ["a", "b"], {"full": True}, 1),
        (["x"], "x", {}, 0),
    ],
)
async def test_regex(answer: Any, expected: Any, args: dict[str, Any], score: float) -> None:
    assert await value("regex", answer, expected, **args) == score


@pytest.mark.parametrize(
    ("answer", "expected", "args", "score"),
    [
        (0.1 + 0.2, 0.3, {}, 1),
        (101, 100, {"relative": 0.01}, 1),
        (101.1, 100, {"relative": 0.01}, 0),
        (3, 0, {"absolute": 3}, 1),
        ("1,234.5", 1234.5, {}, 1),
        ("1,23", 123, {}, 0),
        ("-2e3", -2000, {}, 1),
        ("it is 41, no, 42.", 42, {}, 0),
        ("it is 41, no, 42.", 42, {"extract": True}, 1),
        ("nothing", 42, {"extract": True}, 0),
        (True, 1, {}, 0),
        (float("nan"), 1, {}, 0),
        (float("inf"), 1, {}, 0),
        (2, [1, "2"], {}, 1),
        (2, "two", {}, None),
    ],
)
async def test_numeric(
    answer: Any, expected: Any, args: dict[str, Any], score: float | None
) -> None:
    assert await value("numeric", answer, expected, **args) == score


@pytest.mark.parametrize(
    ("answer", "expected", "score"),
    [
        ("the Eiffel tower.", "Eiffel Tower", 1.0),
        ("tower in Paris", "Eiffel tower", 2 * 1 / 5),
        ("a a a", "the", 1.0),
        ("", "x", 0.0),
        ("b b c", "b c c", 2 * 2 / 6),
        ("Rome", ["Paris", "city of Rome"], 2 * 1 / 4),
        ("x", 5, 0.0),
        (5, "5", 0.0),
    ],
)
async def test_token_f1(answer: Any, expected: Any, score: float) -> None:
    assert await value("token_f1", answer, expected) == pytest.approx(score)


def test_words_are_normalised_as_squad_does() -> None:
    assert words("  The U.S.A., an 'Island'? (theatre) ") == ["usa", "island", "theatre"]


@pytest.mark.parametrize(
    ("answer", "expected", "args", "score"),
    [
        (["d1", "d2", "d3"], ["d3", "d9"], {"k": 3}, 0.5),
        (["d1", "d2", "d3"], ["d3", "d9"], {"k": 2}, 0.0),
        (["d1"], "d1", {}, 1.0),
        (["d1", "d1", "d2"], ["d1", "d2"], {"k": 2}, 0.5),
        ([1, 2], ["2"], {}, 1.0),
        ([{"id": "a"}, {"id": "b"}], ["b"], {"key": "id"}, 1.0),
        ([{"meta": {"id": 7}}], [7], {"key": "meta.id"}, 1.0),
        ([{"id": "a"}], ["a"], {}, 0.0),
        ("d1", ["d1"], {}, 0.0),
        (["d1"], [], {}, None),
    ],
)
async def test_recall_at_k(
    answer: Any, expected: Any, args: dict[str, Any], score: float | None
) -> None:
    assert await value("recall_at_k", answer, expected, **args) == score


@pytest.mark.parametrize(
    ("answer", "expected", "args", "score"),
    [
        (["a", "b", "c"], ["c", "b"], {}, 0.5),
        (["a", "b", "c"], "c", {"k": 2}, 0.0),
        (["a"], "z", {}, 0.0),
        ([], "z", {}, 0.0),
    ],
)
async def test_mrr(answer: Any, expected: Any, args: dict[str, Any], score: float) -> None:
    assert await value("mrr", answer, expected, **args) == score


class Person(BaseModel):
    name: str


SCHEMA = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string"}, "tags": {"type": "array"}},
}


@pytest.mark.parametrize(
    ("answer", "args", "score"),
    [
        ({"name": "x", "tags": ("a",)}, {}, 1),
        ('{"name": "x"}', {}, 1),
        ('{"name": "x"}', {"parse": False}, 0),
        ('{"name": ', {}, 0),
        (Person(name="x"), {}, 1),
        ({"name": 5}, {}, 0),
        (object(), {}, 0),
    ],
)
async def test_json_schema(answer: Any, args: dict[str, Any], score: float) -> None:
    assert await value("json_schema", answer, schema=SCHEMA, **args) == score
    assert await value("json_schema", answer, SCHEMA, **args) == score


async def test_json_schema_names_the_violation_and_fetches_nothing() -> None:
    assert await scored("json_schema", {"answer": {"name": 5}}, SCHEMA) == (
        0.0,
        "$.name: 5 is not of type 'string'",
    )
    remote = {"$ref": "http://127.0.0.1:9/schema.json"}
    with pytest.raises(errors.ScorerFailed):
        await scored("json_schema", {"answer": {}}, schema=remote)


@pytest.mark.parametrize("name", sorted(scoring.BUILT_IN))
async def test_a_missing_state_field_scores_0_and_says_so(name: str) -> None:
    expected = {} if name == "json_schema" else "x"
    assert await scored(name, {"other": 1}, expected, field="out.x") == (
        0.0,
        "state has no field 'out.x'",
    )


@pytest.mark.parametrize("name", sorted(scoring.BUILT_IN))
async def test_a_case_that_expects_nothing_is_not_scored(name: str) -> None:
    assert await scored(name, {"answer": "x", "documents": ["x"]}) == (
        None,
        "case 'c1' expects nothing",
    )


@pytest.mark.parametrize("name", sorted(scoring.BUILT_IN))
def test_built_in_scorers_state_range_and_source(name: str) -> None:
    doc = scoring.resolve(ScorerSpec(name=name)).__doc__ or ""
    assert "Range: 0 " in doc
    assert "Source: " in doc


@pytest.mark.parametrize(
    ("state", "expected", "args"),
    [
        ({"out": {"text": "a"}}, "a", {"field": "out.text"}),
        ({"out.text": "a"}, "a", {"field": "out.text"}),
        ({"messages": [{"content": "x"}, {"content": "a"}]}, "a", {"field": "messages.-1.content"}),
        ({"person": Person(name="a")}, "a", {"field": "person.name"}),
        ({"answer": "a"}, {"answer": "a", "documents": []}, {}),
        ({"answer": "a"}, {"gold": {"text": "a"}}, {"expected_field": "gold.text"}),
        ({"answer": {"x": 1}}, {"x": 1}, {}),
    ],
)
async def test_values_are_found_by_dotted_paths(
    state: dict[str, Any], expected: Any, args: dict[str, Any]
) -> None:
    assert await scored("exact", state, expected, **args) == (1.0, None)


async def test_an_expected_object_without_the_field_is_not_guessed_at() -> None:
    found = await scored("exact", {"answer": "a"}, {"gold": "a"})
    assert found == (None, "what case 'c1' expects has no 'answer': see expected_field")
    assert (await scored("exact", {}, {"gold": "a"}, expected_field="none"))[0] is None


async def test_private_attributes_cannot_be_reached() -> None:
    assert (await scored("exact", {"x": "a"}, "str", field="x.__class__.__name__"))[0] == 0.0


@pytest.mark.parametrize(
    ("name", "args", "field", "reason"),
    [
        ("exact", {"feild": "x"}, "args.feild", "it takes field, expected_field"),
        ("exact", {"field": 5}, "args.field", "valid string"),
        ("exact", {"strip": "yes"}, "args.strip", "valid boolean"),
        ("includes", {"match": "some"}, "args.match", "'any' or 'all'"),
        ("regex", {"pattern": "("}, "args.pattern", "no regular expression"),
        ("numeric", {"absolute": -1}, "args.absolute", "greater than or equal to 0"),
        ("recall_at_k", {"k": 0}, "args.k", "greater than or equal to 1"),
        ("recall_at_k", {"k": "5"}, "args.k", "valid integer"),
        ("json_schema", {"schema": {"type": "strin"}}, "args.schema", "no JSON schema"),
        ("exact", {"label": "a\nb"}, "args.label", "letters"),
        ("exact", {"field": object()}, "args.field", "no JSON value"),
        ("tests.scorers:length", {}, "args.field", "missing"),
    ],
)
def test_arguments_are_refused_before_anything_is_scored(
    name: str, args: dict[str, Any], field: str, reason: str
) -> None:
    with pytest.raises(errors.InvalidRequest) as e:
        scoring.resolve(ScorerSpec(name=name, args=args))
    assert e.value.details["field"] == field
    assert reason in e.value.details["reason"]
    assert type(e.value) is errors.InvalidRequest


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("exat", "did you mean 'exact'?"),
        ("zzz", "there are exact, includes"),
        ("tests.no_such:thing", "ModuleNotFoundError"),
        ("tests.scorers:nothing", "AttributeError"),
        ("json:dumps", "must be an async function"),
        (":", "cannot be imported"),
    ],
)
def test_unknown_scorers_say_what_is_wrong(name: str, told: str) -> None:
    with pytest.raises(errors.UnknownScorer, match="scorer") as e:
        scoring.resolve(ScorerSpec(name=name))
    assert told in str(e.value)


async def test_any_async_function_is_a_scorer_with_one_metric_of_its_name() -> None:
    spec = ScorerSpec(name="tests.scorers:bare")
    outcome = CellOutcome(case=Case(id="c", input={}), state={})
    assert [(s.metric, s.value) for s in await scoring.score(spec, outcome)] == [("bare", 1.0)]


def test_packages_offer_scorers_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        metadata.EntryPoint("my_length", "tests.scorers:length", "wtb_ray.scorers"),
        metadata.EntryPoint("exact", "tests.scorers:length", "wtb_ray.scorers"),
    ]
    monkeypatch.setattr(metadata, "entry_points", lambda group: points)
    found = scoring.resolve(ScorerSpec(name="my_length", args={"field": "x"}))
    assert found is scorers.length
    assert scoring.resolve(ScorerSpec(name="exact")).metrics == ("exact",)


async def test_a_projects_scorer_is_found_by_path_and_gets_its_arguments() -> None:
    args = {"field": "text", "scale": 2}
    assert await scored("tests.scorers:length", {"text": "abc"}, **args) == (6.0, None)


def test_metrics_are_named_with_their_arguments_and_label() -> None:
    def named(name: str, **args: Any) -> tuple[str, ...]:
        return scoring.check(ScorerSpec(name=name, args=args))

    assert named("recall_at_k") == ("recall_at_10",)
    assert named("recall_at_k", k=5) == ("recall_at_5",)
    assert named("exact", label="exact source") == ("exact source",)
    assert named("tests.scorers:both", k=1) == ("precision_at_1", "recall_at_1")
    assert named("tests.scorers:both", label="x") == ("x.precision_at_3", "x.recall_at_3")


async def test_scores_carry_the_named_metrics() -> None:
    outcome = CellOutcome(Case(id="c", input={}, expected="d"), {"documents": ["d"]})
    spec = ScorerSpec(name="tests.scorers:both", args={"label": "x"})
    assert await scoring.score(spec, outcome) == [
        Score(metric="x.precision_at_3", value=0.5),
        Score(metric="x.recall_at_3", value=1.0),
    ]
    assert await scoring.score(ScorerSpec(name="recall_at_k", args={"k": 2}), outcome) == [
        Score(metric="recall_at_2", value=1.0)
    ]


def test_validate_lists_the_metrics_and_refuses_double_ones() -> None:
    exact, recall = ScorerSpec(name="exact"), ScorerSpec(name="recall_at_k", args={"k": 5})
    relabelled = ScorerSpec(name="exact", args={"field": "source", "label": "source"})
    assert scoring.validate([exact, recall, relabelled]) == ["exact", "recall_at_5", "source"]
    with pytest.raises(errors.InvalidRequest, match=r"scorers.0 and scorers.1 both") as e:
        scoring.validate([exact, ScorerSpec(name="exact", args={"field": "source"})])
    assert e.value.details["field"] == "scorers.1"


def test_validate_names_the_place_of_what_is_wrong() -> None:
    bad = ScorerSpec(name="mrr", args={"k": -1})
    with pytest.raises(errors.InvalidRequest) as e:
        scoring.validate([ScorerSpec(name="exact"), bad])
    assert e.value.details["field"] == "scorers.1.args.k"
    with pytest.raises(errors.UnknownScorer) as e:
        scoring.validate([ScorerSpec(name="nope")])
    assert e.value.details["field"] == "scorers.0.name"


def test_validate_without_the_projects_code_leaves_its_scorers_out() -> None:
    specs = [ScorerSpec(name="not.here:at_all"), ScorerSpec(name="exact")]
    assert scoring.validate(specs, importable=False) == ["exact"]
    with pytest.raises(errors.UnknownScorer):
        scoring.validate(specs)


@pytest.mark.parametrize(
    ("given", "value"), [(True, 1.0), (0, 0.0), (0.25, 0.25), (None, None), ({"given": 2}, 2.0)]
)
async def test_a_scorer_may_give_numbers_bools_dicts_or_nothing(
    given: Any, value: float | None
) -> None:
    assert (await scored("tests.scorers:given", {"give": given}))[0] == value


async def test_a_metric_that_was_not_given_is_null() -> None:
    outcome = CellOutcome(Case(id="c", input={}), {"give": {"b": 1}})
    assert await scoring.score(ScorerSpec(name="tests.scorers:pair"), outcome) == [
        Score(metric="a", value=None),
        Score(metric="b", value=1.0),
    ]


@pytest.mark.parametrize(
    ("name", "give", "told"),
    [
        ("given", "0.5", "is no number"),
        ("given", float("nan"), "a score is finite, or None"),
        ("given", float("inf"), "a score is finite, or None"),
        ("given", {"other": 1}, "declares ['given']"),
        ("given", Score(metric="other", value=1.0), "declares ['given']"),
        ("pair", 0.5, "give a dict of them"),
    ],
)
async def test_what_is_no_score_fails_the_scorer(name: str, give: Any, told: str) -> None:
    with pytest.raises(errors.ScorerFailed) as e:
        await scored(f"tests.scorers:{name}", {"give": give})
    assert told in str(e.value)


async def test_what_a_scorer_raises_is_told_and_kept() -> None:
    with pytest.raises(errors.ScorerFailed, match="raised KeyError: 'text'") as e:
        await scored("tests.scorers:length", {}, field="text")
    assert e.value.details == {
        "scorer": "tests.scorers:length",
        "type": "KeyError",
        "reason": "'text'",
    }
    assert isinstance(e.value.__cause__, KeyError)


@pytest.mark.parametrize("how", ["CancelledError", "SystemExit"])
async def test_a_scorer_cannot_end_what_runs_it(how: str) -> None:
    with pytest.raises(errors.ScorerFailed, match=how):
        await scored("tests.scorers:leaving", {}, how=how)


async def test_a_cancelled_score_passes_the_cancellation_on() -> None:
    task = asyncio.create_task(scored("tests.scorers:leaving", {}, how="never"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_explanations_can_be_stored_in_postgres() -> None:
    _, explanation = await scored("tests.scorers:explained", {})
    assert explanation == "nul \\x00 and surrogate \\ud800"


async def test_unknown_annotations_and_open_arguments_are_let_through() -> None:
    name = "tests.scorers:open_ended"
    assert await scored(name, {}, price="3.20", anything={"x": [1]}) == (1.0, None)
    with pytest.raises(errors.InvalidRequest):
        await scored(name, {}, count="one")


async def test_a_scorer_can_be_called_pickled_and_made_a_spec() -> None:
    outcome = CellOutcome(Case(id="c", input={}), {"x": "abc"})
    assert await scorers.length(outcome, field="x") == 3
    assert pickle.loads(pickle.dumps(scorers.length)) is scorers.length
    assert scorers.length.spec(field="x") == ScorerSpec(
        name="tests.scorers:length", args={"field": "x"}
    )
    built_in = scoring.resolve(ScorerSpec(name="exact"))
    assert built_in.spec() == ScorerSpec(name="exact")
    with pytest.raises(errors.InvalidRequest):
        scorers.length.spec(feild="x")


def test_declaring_a_scorer_wrongly_is_a_type_error() -> None:
    async def f(result: CellOutcome, *, k: int = 1) -> float:
        return 1.0

    def sync(result: CellOutcome) -> float:
        return 1.0

    with pytest.raises(TypeError, match="async function"):
        scorer(metrics=["x"])(sync)  # type: ignore[arg-type]
    for metrics in ([], "x", ["x", "x"]):
        with pytest.raises(TypeError, match="at least one name"):
            scorer(metrics=metrics)(f)
    with pytest.raises(TypeError, match="names no parameter"):
        scorer(metrics=["at_{n}"])(f)
    assert scorer(metrics=["at_{k}"])(f).names({"k": 4}) == ("at_4",)
