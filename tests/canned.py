"""A bench that answers HTTP in the documented shapes without running anything.

It keeps what it is sent, so that a test can see what a client really asked for. How an execution or
a batch ends is told by the project's name: `fails`, `pauses`, `stops`; anything else completes.
"""

import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from wtb_ray import api, errors, model
from wtb_ray.events import EventRow

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
EXECUTION = "e0195aaaaaaaa0123456789ab"
BATCH = "b0195bbbbbbbb0123456789ab"
FAULT = model.Fault(
    code="node_failed",
    type="ValueError",
    message="no documents",
    node="retrieve",
    traceback="Traceback (most recent call last):\n  ...\nValueError: no documents\n",
)
GRAPH = model.GraphInfo(
    nodes=(
        model.NodeInfo(
            name="retrieve", implementation="rag.nodes:bm25", is_async=False, fingerprint="f" * 64
        ),
        model.NodeInfo(
            name="answer", implementation="rag.nodes:answer", is_async=True, fingerprint="a" * 64
        ),
    ),
    edges=(("__start__", "retrieve"), ("retrieve", "answer"), ("answer", "__end__")),
    channels=("question", "answer"),
    input_channels=("question",),
)
ENDS = {"fails": "FAILED", "pauses": "PAUSED", "stops": "CANCELLED"}


class Canned:
    """The answers, and what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.projects = {name: _version(name) for name in ("rag", *ENDS)}
        self.counts = {"DONE": 3, "FAILED": 1}
        self.ready = True
        self.url = ""
        self._progress = 0

    def body(self, path: str) -> Any:
        """The body of the last request to a path that ends like this."""
        return next(body for _, asked, body in reversed(self.asked) if asked.endswith(path))

    def version(self, name: str) -> model.ProjectVersion:
        if name not in self.projects:
            raise errors.UnknownProject(f"there is no project {name!r}", field="project")
        return self.projects[name]

    def execution(self, project: str = "rag", status: str | None = None) -> model.Execution:
        status = status or ENDS.get(project, "COMPLETED")
        return model.Execution(
            id=EXECUTION,
            project=project,
            version="1" * 64,
            binding={"retrieve": "bm25"},
            status=status,
            reason={"PAUSED": "breakpoint", "CANCELLED": "requested"}.get(status),
            epoch=1,
            thread_id=f"{EXECUTION}.0",
            head="1f0",
            head_step=2,
            recursion_limit=100,
            error=FAULT if status == "FAILED" else None,
            latency_ms=12.5,
            node_runs=2,
            created_at=NOW,
        )

    def batch(self, project: str = "rag", status: str | None = None) -> model.Batch:
        bindings = ({"retrieve": "bm25"}, {"retrieve": "tfidf"})
        return model.Batch(
            id=BATCH,
            project=project,
            version="1" * 64,
            status=status or ENDS.get(project, "COMPLETED"),
            variants=tuple(f"retrieve={binding['retrieve']}" for binding in bindings),
            bindings=bindings,
            scorers=(model.ScorerSpec(name="exact"),),
            repetitions=1,
            node_errors="zero",
            cases=2,
            cells=4,
            counts=self.counts,
            created_at=NOW,
        )

    def progress(self, status: str) -> api.Progress:
        """Two reports of a running batch, then its end."""
        self._progress += 1
        finished = min(self._progress, 3) + 1
        done = finished == 4
        return api.Progress(
            id=BATCH,
            status=status if done else "RUNNING",
            total=4,
            counts=self.counts if done else {"DONE": finished, "PENDING": 4 - finished},
            finished=finished,
            percent=finished * 25,
            rate=8.0,
            remaining_s=(4 - finished) / 8,
        )


def _version(name: str, spec: model.ProjectSpec | None = None) -> model.ProjectVersion:
    variants = {"retrieve": {"tfidf": model.VariantSpec(implementation="rag.nodes:tfidf")}}
    return model.ProjectVersion(
        project=name,
        version="1" * 64,
        spec=spec or model.ProjectSpec(name=name, entry="rag.graph:build", variants=variants),
        graph=GRAPH,
        created_at=NOW,
    )


def cells() -> list[api.CellResult]:
    error = {"code": "node_failed", "node": "retrieve", "message": "no documents"}
    rows = [
        ("bm25", "one", 1.0),
        ("tfidf", "one", 0.5),
        ("bm25", "two", 0.0),
        ("tfidf", "two", None),
    ]
    return [
        api.CellResult(
            id=number,
            variant=f"retrieve={variant}",
            binding={"retrieve": variant},
            case_id=case,
            repetition=0,
            status="FAILED" if value is None else "DONE",
            execution_id=EXECUTION,
            scores={} if value is None else {"exact": value},
            latency_ms=12.5,
            error=error if value is None else None,
        )
        for number, (variant, case, value) in enumerate(rows, 1)
    ]


def board() -> api.Leaderboard:
    def row(rank: int, variant: str, mean: float, failed: int) -> api.LeaderboardRow:
        summary = api.MetricSummary(
            metric="exact", n=2, cases=2, mean=mean, low=mean - 0.125, high=mean + 0.125
        )
        return api.LeaderboardRow(
            rank=rank,
            variant=f"retrieve={variant}",
            binding={"retrieve": variant},
            metrics=[summary],
            cells=2,
            done=2 - failed,
            errors=failed,
            excluded=0,
            latency_p50_ms=12.5,
            latency_p95_ms=1250.0,
        )

    return api.Leaderboard(
        batch_id=BATCH,
        digest="d" * 64,
        primary="exact",
        node_errors="zero",
        rows=[row(1, "bm25", 0.75, 0), row(2, "tfidf", 0.25, 1)],
        complete=True,
    )


def log(status: str) -> list[EventRow]:
    """The events of one execution."""
    steps = [
        ("step.completed", {"step": n, "nodes": [node], "next_nodes": after, "duration_ms": 6.25})
        for n, node, after in ((1, "retrieve", ["answer"]), (2, "answer", []))
    ]
    end = (f"execution.{status.lower()}", {"latency_ms": 12.5, "node_runs": 2})
    return [
        EventRow(
            cursor=f"100.{number}",
            at=NOW,
            type=kind,
            project="rag",
            execution_id=EXECUTION,
            batch_id=None,
            actor="runner",
            payload=payload,
        )
        for number, (kind, payload) in enumerate([*steps, end], 1)
    ]


def build(canned: Canned) -> FastAPI:
    """The application over these answers."""
    app = FastAPI(openapi_url=None)
    _install(app, canned)
    _workflows(app, canned)
    _executions(app, canned)
    _batches(app, canned)
    return app


def _install(app: FastAPI, canned: Canned) -> None:
    @app.exception_handler(errors.WTBError)
    async def failed(_: Request, error: errors.WTBError) -> JSONResponse:
        return JSONResponse({"error": error.body()}, error.http_status)

    @app.middleware("http")
    async def keep(request: Request, call_next: Any) -> Response:
        if request.method == "POST":
            canned.asked.append((request.method, request.url.path, await request.json()))
        else:
            canned.asked.append((request.method, request.url.path, dict(request.query_params)))
        response: Response = await call_next(request)
        return response

    @app.get("/api/v1/health")
    @app.get("/api/v1/ready")
    async def ready(response: Response) -> api.Health:
        response.status_code = 200 if canned.ready else 503
        database = "ok" if canned.ready else "unavailable"
        return api.Health(status=database, version="0.1.0", components={"database": database})

    @app.get("/api/v1/events")
    async def events(
        execution: str | None = None, type: str | None = None, after: str | None = None
    ) -> StreamingResponse:
        if execution not in (None, EXECUTION):
            raise errors.UnknownExecution(f"there is no execution {execution!r}")
        last = [path for _, path, _ in canned.asked if path.endswith("/execute")]
        project = last[-1].split("/")[-2] if last else "rag"

        async def lines() -> AsyncIterator[str]:
            yield "retry: 1000\n\n"
            for row in log(ENDS.get(project, "COMPLETED")):
                if row.cursor > (after or "") and (type is None or row.type in type.split(",")):
                    yield f"id: {row.cursor}\nevent: {row.type}\ndata: {row.model_dump_json()}\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")


def _workflows(app: FastAPI, canned: Canned) -> None:
    @app.head("/api/v1/bundles/{digest}")
    async def has_bundle(digest: str) -> Response:
        return Response(status_code=200)

    @app.post("/api/v1/workflows", status_code=201)
    async def register(spec: model.ProjectSpec) -> model.ProjectVersion:
        canned.projects[spec.name] = _version(spec.name, spec)
        return canned.projects[spec.name]

    @app.get("/api/v1/workflows")
    async def projects() -> api.Page[model.ProjectVersion]:
        return api.Page(items=list(canned.projects.values()))

    @app.get("/api/v1/workflows/{name}")
    async def project(name: str) -> model.ProjectVersion:
        return canned.version(name)

    @app.get("/api/v1/workflows/{name}/nodes")
    async def nodes(name: str) -> list[api.NodeView]:
        variants = canned.version(name).spec.variants
        return [
            api.NodeView(**{**node.model_dump(), "variants": variants.get(node.name, {})})
            for node in GRAPH.nodes
        ]

    @app.post("/api/v1/workflows/{name}/execute", status_code=202)
    async def execute(name: str, request: api.ExecuteRequest) -> model.Execution:
        canned.version(name)
        if "typo" in request.variant_config:
            raise errors.UnknownNode(
                "the graph has no node 'typo'", field="variant_config.typo", reason="unknown"
            )
        return canned.execution(name, "PENDING")


def _executions(app: FastAPI, canned: Canned) -> None:
    def project() -> str:
        last = [path for _, path, _ in canned.asked if path.endswith("/execute")]
        return last[-1].split("/")[-2] if last else "rag"

    @app.get("/api/v1/executions/{id}")
    async def execution(id: str) -> model.Execution:
        return canned.execution(project())

    @app.get("/api/v1/executions/{id}/state")
    async def state(id: str) -> api.StateView:
        found = canned.execution(project())
        return api.StateView(
            execution_id=found.id,
            checkpoint_id=found.head,
            step=found.head_step,
            status=found.status,
            next_nodes=["answer"] if found.status == "PAUSED" else [],
            values={"question": "How do I parse JSON?", "answer": "json.loads"},
        )


def _batches(app: FastAPI, canned: Canned) -> None:
    def project() -> str:
        made = [body for _, path, body in canned.asked if path.endswith("/batch-tests") and body]
        return str(made[-1].get("project", "rag")) if made else "rag"

    @app.post("/api/v1/batch-tests", status_code=202)
    async def batch_test(request: api.BatchTestRequest) -> model.Batch:
        canned.version(request.project or "")
        return canned.batch(request.project or "", "PENDING")

    @app.get("/api/v1/batch-tests")
    async def batches() -> api.Page[model.Batch]:
        return api.Page(items=[canned.batch()], next="later")

    @app.get("/api/v1/batch-tests/{id}")
    async def batch(id: str) -> model.Batch:
        if id != BATCH:
            raise errors.UnknownBatch(f"there is no batch {id!r}", field="batch")
        return canned.batch(project())

    @app.get("/api/v1/batch-tests/{id}/progress")
    async def progress(id: str) -> api.Progress:
        return canned.progress(ENDS.get(project(), "COMPLETED"))

    @app.get("/api/v1/batch-tests/{id}/results")
    async def results(id: str, status: str | None = None) -> api.Page[api.CellResult]:
        found = [cell for cell in cells() if status in (None, cell.status)]
        return api.Page(items=found, next=None if status else "4")

    @app.get("/api/v1/batch-tests/{id}/leaderboard")
    async def leaderboard(id: str) -> api.Leaderboard:
        return board()

    @app.post("/api/v1/batch-tests/{id}/stop", status_code=202)
    async def stop(id: str) -> model.Batch:
        return canned.batch("stops")


@contextlib.contextmanager
def serving(canned: Canned) -> Iterator[Canned]:
    """The application on a free port of the loopback, in a thread."""
    server = uvicorn.Server(uvicorn.Config(build(canned), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    canned.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield canned
    finally:
        server.should_exit = True
        thread.join()
