"""Batches over gRPC say the same as over HTTP."""

from datetime import UTC, datetime

import pytest

from wtb_ray import errors, requests
from wtb_ray.api import CellResult, Page
from wtb_ray.model import Batch, Budget, Cost, ScorerSpec
from wtb_ray.rpc import batch_pb2, execution_pb2
from wtb_ray.serve import grpc_batch_messages as messages
from wtb_ray.serve import grpc_messages
from wtb_ray.serve.grpc_control_messages import page_size
from wtb_ray.states import BatchStatus, CellStatus

AT = datetime(2026, 5, 1, 12, tzinfo=UTC)


def test_a_request_is_what_http_would_have_had() -> None:
    case = batch_pb2.TestCase(id="c", input='{"x": 1}', answers='[true, null, {"k": 1}]')
    message = batch_pb2.RunBatchTestRequest(
        project="p",
        variant_matrix=[batch_pb2.Binding(nodes={"a": "b"})],
        test_cases=[case, batch_pb2.TestCase(id="d", input="{}")],
        interrupts="wait",
        deadline_s=2.5,
        budget=batch_pb2.Budget(cells=3),
    )
    made = messages.batch_request(message)
    assert (made.deadline_s, made.interrupts, made.budget) == (2.5, "wait", Budget(cells=3))
    cases = requests.check_cases(made.test_cases, field="test_cases")
    assert [case.answers for case in cases] == [(True, None, {"k": 1}), ()]
    started = grpc_messages.execute_request(
        execution_pb2.StartExecutionRequest(project="p", deadline_s=1.5)
    )
    assert started.deadline_s == 1.5


@pytest.mark.parametrize("answers", ["[yes", '{"a": 1}', '"yes"'])
def test_answers_that_are_no_json_list_are_refused(answers: str) -> None:
    message = batch_pb2.RunBatchTestRequest(
        project="p", test_cases=[batch_pb2.TestCase(id="c", input="{}", answers=answers)]
    )
    with pytest.raises(errors.InvalidRequest) as refused:
        requests.check_cases(messages.batch_request(message).test_cases, field="test_cases")
    assert refused.value.details["field"] == "test_cases.0.answers"


def test_a_batch_has_all_that_http_shows() -> None:
    model = Batch(
        id="b1",
        project="p",
        version="v",
        status=BatchStatus.COMPLETED,
        variants=("base", "other"),
        bindings=({}, {"a": "b"}),
        scorers=(ScorerSpec(name="exact", args={"field": "x"}),),
        repetitions=2,
        node_errors="zero",
        cases=3,
        cells=12,
        counts={"DONE": 11, "EXCLUDED": 1},
        interrupts="wait",
        deadline_s=60,
        budget=Budget(cost=0.5),
        cost=Cost(node_runs=4, duration_ms=9, usage={"tokens": 7}),
        reason="budget_exceeded: of cost",
        created_at=AT,
        ended_at=AT,
    )
    found = messages.batch(model)
    fields = {field.name for field in batch_pb2.Batch.DESCRIPTOR.fields}
    assert fields == set(Batch.model_fields), "nothing is left out"
    for name in ("id", "project", "version", "repetitions", "cases", "cells", "reason"):
        assert getattr(found, name) == getattr(model, name)
    assert (found.status, found.deadline_s) == (batch_pb2.BATCH_STATUS_COMPLETED, 60)
    assert [dict(binding.nodes) for binding in found.bindings] == [{}, {"a": "b"}]
    assert (found.scorers[0].name, found.scorers[0].args) == ("exact", '{"field":"x"}')
    assert (dict(found.counts), found.cost.node_runs) == (model.counts, 4)
    assert (found.budget.cost, found.budget.HasField("cells")) == (0.5, False)
    assert found.ended_at.ToDatetime(UTC) == AT
    assert not found.HasField("started_at")
    bare = messages.batch(model.model_copy(update={"budget": None, "deadline_s": None}))
    assert not bare.HasField("budget")
    assert not bare.HasField("deadline_s")


def test_a_cell_has_all_that_http_shows() -> None:
    fault = {"code": "node_failed", "type": "ValueError", "message": "no", "node": "a"}
    model = CellResult(
        id=4711,
        variant="base",
        binding={"a": "b"},
        case_id="c",
        repetition=1,
        status=CellStatus.FAILED,
        execution_id="e1",
        scores={"exact": 0.0, "odd": None},
        latency_ms=1.5,
        usage={"tokens": 3},
        error=fault,
        shared_failure=True,
    )
    assert {f.name for f in batch_pb2.Cell.DESCRIPTOR.fields} == set(CellResult.model_fields)
    page = messages.results(Page(items=[model], next="9"))
    [found] = page.cells
    assert page.next == "9"
    assert not messages.results(Page(items=[])).HasField("next")
    assert (found.id, found.status, found.execution_id) == (
        4711,
        batch_pb2.CELL_STATUS_FAILED,
        "e1",
    )
    assert [(s.metric, s.HasField("value")) for s in found.scores] == [
        ("exact", True),
        ("odd", False),
    ]
    assert (found.error.code, found.error.node, found.shared_failure) == ("node_failed", "a", True)
    assert not found.HasField("node_runs")


def test_pages_of_results_are_asked_for_by_status_and_size() -> None:
    names = {s.removeprefix("CELL_STATUS_") for s in batch_pb2.CellStatus.keys()}  # noqa: SIM118
    assert names == {*CellStatus, "UNSPECIFIED"}
    request = batch_pb2.GetBatchTestResultsRequest(batch_id="b")
    assert (messages.cell_status(request), page_size(request, 100)) == (None, 100)
    request = batch_pb2.GetBatchTestResultsRequest(status=batch_pb2.CELL_STATUS_DONE, limit=7)
    assert (messages.cell_status(request), page_size(request, 100)) == (CellStatus.DONE, 7)
    with pytest.raises(errors.InvalidRequest, match="limit"):
        page_size(batch_pb2.GetBatchTestResultsRequest(limit=0), 100)
    odd = batch_pb2.GetBatchTestResultsRequest.FromString(b"\x10\x63")
    with pytest.raises(errors.InvalidRequest, match="status: 99"):
        messages.cell_status(odd)
