"""The ML example, run by plain LangGraph: divergence, the gate's loop, approval, files, variants."""

import itertools
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import ValidationError
from sklearn.datasets import load_digits

from wtb_ray import bindings, entries
from wtb_ray.context import Context, Workspace, entered
from wtb_ray.errors import InvalidState
from wtb_ray.examples import ml
from wtb_ray.examples.ml import artefacts, data, demo, features, models, plot, release, train
from wtb_ray.examples.ml.artefacts import ArtefactChanged
from wtb_ray.examples.ml.data import DataRejected
from wtb_ray.examples.ml.evaluate import confusion, macro_f1, verdict
from wtb_ray.examples.ml.models import TrainingDiverged
from wtb_ray.examples.ml.state import Hyperparameters
from wtb_ray.model import Case
from wtb_ray.scoring import CellOutcome, check, score
from wtb_ray.serde import Serializer

AT_ONCE = {"approval": "automatic"}
BEFORE = ["collect", "validate", "features", "profile"]
ATTEMPT = ["tune", "train", "evaluate"]
AFTER = ["approve", "deploy", "monitor"]


class Run:
    """One thread of the graph with a binding's variants in it, in a workspace of its own."""

    def __init__(self, files: Path, binding: dict[str, str] | None = None) -> None:
        self.files = files
        self.config: Any = {"configurable": {"thread_id": "1"}}
        spec, entry = ml.project(), entries.load_entry(ml.project().entry)
        self.params = bindings.params(spec, binding or {})
        found = {
            node: entries.load_implementation(path, field=node)
            for node, path in bindings.implementations(spec, binding or {}).items()
        }
        bound = entries.bind(entry.builder, found)
        self.app: entries.CompiledGraph = bound.compile(InMemorySaver())

    def __call__(self, given: Any) -> dict[str, Any]:
        """The state after a run, or after the rest of one."""
        self.nodes(given)
        return self.state

    def nodes(self, given: Any) -> list[str]:
        """The nodes that ran, in order."""
        with self.entered():
            updates = list(self.app.stream(given, self.config, stream_mode="updates"))
        names = [node for update in updates for node in update if node != "__interrupt__"]
        # The two that run at once end in any order.
        return BEFORE + names[4:] if set(names[:4]) == set(BEFORE) else names

    def steps(self, given: Any) -> list[set[str]]:
        """The nodes of each super-step."""
        with self.entered():
            tasks = list(self.app.stream(given, self.config, stream_mode="debug"))
        started = [task for task in tasks if task["type"] == "task"]
        return [
            {task["payload"]["name"] for task in group}
            for _, group in itertools.groupby(started, lambda task: task["step"])
        ]

    def entered(self) -> Any:
        return entered(Context("e", self.params, "", Workspace(str(self.files))))

    @property
    def state(self) -> dict[str, Any]:
        return dict(self.app.get_state(self.config).values)

    def path(self, name: str) -> Path:
        """Where the file is that the state refers to under this name."""
        return Workspace(str(self.files)).resolve(self.state[name]["ref"])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


# The whole way


def test_ten_nodes_lead_from_collecting_to_monitoring(run: Run) -> None:
    assert run.nodes({**AT_ONCE, "target": 0.8}) == [*BEFORE, *ATTEMPT, *AFTER]
    assert run.state["decision"]["by"] == "gate"
    assert len(run.app.builder.nodes) == 10


def test_features_and_profile_share_a_super_step(run: Run) -> None:
    steps = run.steps({**AT_ONCE, "target": 0.8})
    assert steps[:4] == [{"collect"}, {"validate"}, {"features", "profile"}, {"tune"}]
    assert all(len(nodes) == 1 for nodes in steps[3:])


def test_it_is_fast(run: Run) -> None:
    run({**AT_ONCE, "target": 0.8})  # loads the data set
    used = time.process_time()
    run(AT_ONCE)
    assert time.process_time() - used < 1.5


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = Run(tmp_path_factory.mktemp("finished"))
    made(AT_ONCE)
    return made


def test_the_state_is_small_and_plain_and_holds_no_path(finished: Run) -> None:
    serde = Serializer()
    assert json.loads(json.dumps(finished.state)) == finished.state
    assert serde.loads_typed(serde.dumps_typed(finished.state)) == finished.state
    assert len(json.dumps(finished.state)) < 6000
    assert str(finished.files) not in json.dumps(finished.state)


# Divergence


@pytest.mark.parametrize("variant", ["network", "linear"])
@pytest.mark.parametrize("kind", demo.FEATURES)
def test_training_diverges_at_a_bold_learning_rate(tmp_path: Path, kind: str, variant: str) -> None:
    run = Run(tmp_path, {"features": kind, "tune": "bold", "train": variant})
    with pytest.raises(TrainingDiverged, match=r"learning rate of 0\.8"):
        run({})
    assert run.app.get_state(run.config).next == ("train",)
    assert "model" not in run.state


def test_a_diverged_training_leaves_its_curve_and_no_model(run: Run) -> None:
    with pytest.raises(TrainingDiverged):
        run({"hyperparameters": {"learning_rate": 0.3}})
    header, *epochs = (run.files / train.LOSSES).read_text().splitlines()
    assert header == "epoch,loss"
    assert not float(epochs[-1].split(",")[1]) < models.BLOWN_UP
    assert not (run.files / "model/model.npz").exists()


def test_with_a_safer_rate_the_same_thread_goes_on(run: Run) -> None:
    with pytest.raises(TrainingDiverged):
        run({**AT_ONCE, "hyperparameters": {"learning_rate": 0.8}})
    with run.entered():
        changed = {"trying": {**run.state["trying"], "learning_rate": 0.02, "epochs": 24}}
        run.app.update_state(run.config, changed, as_node="tune")
    assert run.nodes(None) == [*ATTEMPT[1:], *AFTER]
    assert run.state["history"][0]["hyperparameters"]["learning_rate"] == 0.02


def test_the_state_goes_before_the_variant_of_tune(tmp_path: Path) -> None:
    run = Run(tmp_path, {"tune": "bold"})
    assert "deployed" in run({**AT_ONCE, "hyperparameters": {"learning_rate": 0.02}})
    assert run.state["trying"]["learning_rate"] == 0.02


def test_naive_bayes_has_nothing_to_diverge(tmp_path: Path) -> None:
    state = Run(tmp_path, {"tune": "bold", "train": "naive_bayes"})({**AT_ONCE, "target": 0.8})
    assert state["metrics"]["test"] > 0.8


# The gate


def test_the_gate_sends_back_until_the_model_is_good_enough(run: Run) -> None:
    assert run.nodes(AT_ONCE) == [*BEFORE, *ATTEMPT, *ATTEMPT, *AFTER]
    first, second = run.state["history"]
    assert first["validation"] < run.state["target"] <= second["validation"]
    assert second["hyperparameters"]["epochs"] == 3 * first["hyperparameters"]["epochs"]


def test_the_gate_rejects_when_the_attempts_are_used_up(run: Run) -> None:
    assert run.nodes({"target": 1.0, "attempts": 2}) == [*BEFORE, *(2 * ATTEMPT)]
    assert run.state["verdict"] == "rejected"
    assert not {"decision", "deployed"} & set(run.state)
    assert not (run.files / "output").exists()


def test_the_verdict_goes_by_the_validation_part() -> None:
    def said(validation: float, before: int) -> str:
        attempt: Any = {"hyperparameters": {}, "train": 1.0, "validation": validation}
        return verdict({"target": 0.9, "attempts": 2}, [attempt] * (before + 1))

    assert said(0.9, 0) == said(0.9, 1) == "passed"
    assert (said(0.89, 0), said(0.89, 1)) == ("again", "rejected")


def test_what_learned_by_heart_is_held_back() -> None:
    knows: Any = {"hyperparameters": {}, "train": 1.0, "validation": 0.8}
    chosen = train.adapted(Hyperparameters(), knows, target=0.9)
    assert chosen.decay > Hyperparameters().decay
    assert chosen.epochs == Hyperparameters().epochs


# Approval


def test_somebody_is_asked_and_the_answer_deploys(run: Run) -> None:
    assert run.nodes({})[-3:] == ATTEMPT
    [asked] = run.app.get_state(run.config).interrupts
    assert asked.value["metrics"] == run.state["metrics"]
    assert asked.value["files"][1] == run.state["plot"]["ref"]
    assert asked.response_schema["required"] == ["approve"]  # type: ignore[index]
    assert Serializer().loads_typed(Serializer().dumps_typed(asked)) == asked
    answer = {"approve": True, "by": "Ada", "note": "ship it"}
    assert run.nodes(Command(resume={asked.id: answer})) == AFTER
    assert run.state["decision"] == answer


def test_a_refusal_ends_without_deployment(run: Run) -> None:
    run({})
    assert run.nodes(Command(resume={"approve": False})) == ["approve"]
    assert "deployed" not in run.state


@pytest.mark.parametrize("answer", ["yes", {"approve": "perhaps"}, {"approve": True, "pay": 1}])
def test_an_answer_that_is_none_can_be_given_again(run: Run, answer: Any) -> None:
    run({})
    with pytest.raises(ValidationError):
        run(Command(resume=answer))
    assert run.nodes(Command(resume={"approve": True})) == AFTER


# Files


def test_every_artefact_is_where_the_state_says(finished: Run) -> None:
    kept = {name for name, value in finished.state.items() if isinstance(value, dict)}
    kept = {name for name in kept if "ref" in finished.state[name]}
    assert kept == {
        *("raw", "clean", "profiled", "transform", "table"),
        *("model", "report", "plot", "deployed", "monitoring"),
    }
    for name in kept:
        path = finished.path(name)
        assert path.is_relative_to(finished.files)
        assert path.stat().st_size == finished.state[name]["bytes"] > 100


def test_report_plot_and_monitoring_can_be_read(finished: Run) -> None:
    report = json.loads(finished.path("report").read_text())
    assert report["metrics"] == finished.state["metrics"]
    assert np.sum(report["confusion"]) == pytest.approx(240, abs=15)
    picture = ElementTree.fromstring(finished.path("plot").read_text())
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(picture.findall("{*}rect")) == 102
    setup = json.loads(finished.path("monitoring").read_text())
    assert setup["model"] == finished.state["deployed"]["sha256"]
    assert setup["alerts"] == []


def test_the_deployed_file_stands_alone(finished: Run) -> None:
    with np.load(finished.path("deployed"), allow_pickle=False) as stored:
        package = dict(stored)
    images, labels = load_digits(return_X_y=True)
    assert np.mean(release.classify(package, images) == labels) > 0.93
    inverted = 16 - images
    assert np.mean(release.classify(package, inverted) == labels) < 0.3


def test_monitoring_speaks_up_outside_of_its_bounds(finished: Run) -> None:
    bounds = json.loads(finished.path("monitoring").read_text())["bounds"]
    seen = {"ink": 0.9, "accuracy": 0.95, "commonest_digit": 0.9}
    assert release.alerts(bounds, seen) == ["commonest_digit", "ink"]


def test_files_of_another_moment_are_refused(run: Run) -> None:
    run({})
    model = run.path("model")
    kept = model.read_bytes()
    model.write_bytes(kept + b"\0")
    with pytest.raises(ArtefactChanged, match=r"workspace:model/model.npz is not the file"):
        run(Command(resume={"approve": True}))
    model.unlink()
    with pytest.raises(ArtefactChanged, match="is not there"):
        run(None)
    model.write_bytes(kept)
    assert "monitoring" in run(None)


def test_files_can_move_with_the_state(run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    run({})
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "files"
    run.files = run.files.rename(elsewhere)
    assert "monitoring" in run(Command(resume={"approve": True}))


def test_no_pickle_is_ever_loaded(tmp_path: Path) -> None:
    with entered(Context("e", {}, "", Workspace(str(tmp_path)))):
        saved = artefacts.save_arrays("bad.npz", {"a": np.array([{}], dtype=object)})
        with pytest.raises(ValueError, match="allow_pickle=False"):
            artefacts.load_arrays(saved)


# Seeds and variants


def test_the_same_seed_gives_the_same_metrics_and_files(finished: Run, run: Run) -> None:
    assert run(AT_ONCE) == finished.state
    names = {path.relative_to(run.files) for path in run.files.rglob("*") if path.is_file()}
    assert len(names) == 11
    for name in names:
        assert (run.files / name).read_bytes() == (finished.files / name).read_bytes(), name


def test_another_seed_gives_other_data_and_metrics(finished: Run, run: Run) -> None:
    state = run({**AT_ONCE, "seed": 1})
    assert state["raw"]["sha256"] != finished.state["raw"]["sha256"]
    assert state["metrics"] != finished.state["metrics"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The final states of every row of the matrix on some cases of each condition, on several threads."""
    cases = ml.cases()[::6]

    def final(binding: dict[str, str], case: Case) -> dict[str, Any]:
        return Run(tmp_path_factory.mktemp("cell"), binding)(case.input)

    with ThreadPoolExecutor(2) as threads:
        return {
            "+".join(binding.values()): list(threads.map(final, [binding] * len(cases), cases))
            for binding in ml.matrix()
        }


def test_every_variant_changes_the_metrics(compared: dict[str, list[dict[str, Any]]]) -> None:
    metrics = {name: [state["metrics"] for state in states] for name, states in compared.items()}
    assert len(metrics) == 9
    for one, other in itertools.combinations(metrics, 2):
        differ = sum(a != b for a, b in zip(metrics[one], metrics[other], strict=True))
        assert differ >= 3, (one, other)


def test_the_variants_are_sensible_and_not_equally_good(
    compared: dict[str, list[dict[str, Any]]],
) -> None:
    mean = {
        name: np.mean([state["metrics"]["test"] for state in states])
        for name, states in compared.items()
    }
    assert min(mean.values()) > 0.7, mean
    assert 0.85 < max(mean.values()) < 0.95, mean
    assert max(mean.values()) - min(mean.values()) > 0.05, mean
    verdicts = {state["verdict"] for states in compared.values() for state in states}
    assert verdicts == {"passed", "rejected"}


def test_parameters_of_variants_reach_the_nodes(tmp_path: Path) -> None:
    run = Run(tmp_path, {"features": "components", "tune": "thorough"})
    run.params["features"] = {"components": 5}
    run({**AT_ONCE, "attempts": 1})
    assert run.state["trying"]["epochs"] == 40
    with np.load(run.path("table")) as table:
        assert table["features"].shape[1] == 5


# The project, its cases and its scorer


def test_every_variant_of_the_project_can_be_bound() -> None:
    spec = ml.project()
    info = entries.info(entries.load_entry(spec.entry))
    assert {node.name for node in info.nodes} == {*BEFORE, *ATTEMPT, *AFTER}
    assert {("features", "tune"), ("profile", "tune"), ("evaluate", "tune")} <= set(info.edges)
    for node, variants in spec.variants.items():
        for name in variants:
            bindings.check(spec, info, {}, {node: name})
    assert spec.tracking
    assert spec.version() == ml.project().version()


def test_cases_are_distinct_and_ask_nobody() -> None:
    cases = ml.cases()
    assert len({case.id for case in cases}) == len(cases) == 20
    assert len({json.dumps(case.input) for case in cases}) == len(cases)
    assert {case.input["approval"] for case in cases} == {"automatic"}
    assert Case.model_validate_json(cases[0].model_dump_json()) == cases[0]


async def test_the_scorer_judges_by_the_test_part(finished: Run) -> None:
    [spec] = ml.scorers()
    assert check(spec)[0] == "accuracy"

    async def scores(state: dict[str, Any], expected: float) -> dict[str, float | None]:
        case = Case(id="1", input={}, expected={"accuracy": expected})
        found = await score(spec, CellOutcome(case=case, state=state))
        return {each.metric: each.value for each in found}

    metrics = finished.state["metrics"]
    good = await scores(finished.state, 0.5)
    assert good == {
        "accuracy": metrics["test"],
        "macro_f1": metrics["macro_f1"],
        "reached": 1.0,
        "deployed": 1.0,
    }
    rejected = {"metrics": metrics, "verdict": "rejected"}
    assert (await scores(rejected, 0.99)).items() >= {"reached": 0.0, "deployed": 0.0}.items()


# Bad input


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"rows": 50}, "rows"),
        ({"rows": "many"}, "rows"),
        ({"seed": -1}, "seed"),
        ({"noise": float("nan")}, "noise"),
        ({"target": 1.1}, "target"),
        ({"attempts": 0}, "attempts"),
        ({"approval": "later"}, "approval"),
        ({"hyperparameters": {"learning_rate": 0}}, "learning_rate"),
        ({"hyperparameters": {"epochs": 10_000}}, "epochs"),
        ({"hyperparameters": {"learningrate": 1}}, "learningrate"),
    ],
)
def test_settings_out_of_bounds_are_refused_by_name(
    run: Run, given: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidState) as raised:
        run(given)
    assert raised.value.details["field"] == field
    assert field in str(raised.value)


def test_data_without_enough_of_a_digit_is_rejected(tmp_path: Path) -> None:
    raw: artefacts.Arrays = {
        "images": np.zeros((40, 64), np.float32),
        "labels": np.arange(40, dtype=np.int8) % 9,
        "part": np.zeros(40, np.int8),
    }
    with entered(Context("e", {}, "", Workspace(str(tmp_path)))):
        state: Any = {"raw": artefacts.save_arrays("data/raw.npz", raw)}
        with pytest.raises(DataRejected, match="0 training images of the digit 9: 3 are needed"):
            data.validate(state)


def test_damaged_scans_are_left_out(finished: Run) -> None:
    with np.load(finished.path("raw")) as raw, np.load(finished.path("clean")) as clean:
        assert np.isnan(raw["images"]).any()
        assert np.isfinite(clean["images"]).all()
        assert 0 < len(raw["labels"]) - len(clean["labels"]) < 60


# Pieces by themselves


def test_f1_is_the_mean_over_digits_that_matter() -> None:
    labels, predicted = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    counts = confusion(labels, predicted)
    assert counts[:2, :2].tolist() == [[1, 1], [0, 2]]
    assert macro_f1(counts) == round((2 / 3 + 4 / 5 + 8) / 10, 4)


def test_differences_are_the_same_in_a_darker_image() -> None:
    rising = np.eye(64, 63) - np.eye(64, 63, k=-1)
    transform = {"basis": -rising, "centre": np.zeros(63), "scale": np.ones(63)}
    image = np.tile(np.repeat([0.0, 4.0], 4), 8)
    seen = features.apply(transform, image[None])
    assert seen.min() == -0.25
    assert (features.apply(transform, image[None] + 8) == seen).all()
    rectified = features.apply({**transform, "rectified": np.ones(1)}, image[None])
    assert (rectified == np.maximum(seen, 0)).all()


@pytest.mark.parametrize("losses", [[], [0.5], [0.5, float("inf")], [0.5, 0.2, 0.0], [0.0]])
def test_any_curve_can_be_drawn(losses: list[float]) -> None:
    picture = ElementTree.fromstring(plot.svg(losses, [[0] * 10] * 10))
    numbers = [line.get("points", "") for line in picture.findall("{*}polyline")]
    assert "nan" not in "".join(numbers)


@pytest.fixture(autouse=True)
def nothing_is_written_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Nodes write to their workspace and nowhere else."""
    here = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(here)
    yield
    assert list(here.iterdir()) == []
