"""Every request the SDK makes, its answer parsed, and when it is sent again: said once, without I/O.

A `Call` is built here and sent by the sync or the async bench. Errors come back as the class of
`wtb_ray.errors` that the server raised, by its code. Fields that a newer server adds are ignored.
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from wtb_ray import __version__, api, control, errors
from wtb_ray.batch_tree import BatchTree
from wtb_ray.file_entries import TrashedFile
from wtb_ray.model import (
    Batch,
    Execution,
    ProjectSpec,
    ProjectVersion,
    digest,
    keyed_id,
    keyed_seed,
    new_id,
    request_digest,
)
from wtb_ray.sdk.downloads import check_digest, unquoted

BASE: Final = "/api/v1"
BATCHES: Final = "/batch-tests"
PAGE: Final = 200
MOST: Final = 500
"""The largest page that the bench gives."""
CONNECT_TIMEOUT_S: Final = 5.0
TIMEOUT_S: Final = 30.0
REGISTER_TIMEOUT_S: Final = 900.0
"""Registering builds environments, starts processes in them and imports the user's code there."""
FILE_TIMEOUT_S: Final = 300.0
"""A large file is fetched and verified before its first byte is sent."""

Answer = TypeVar("Answer")
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Call(Generic[Answer]):
    """One request and how its answer is read."""

    method: str
    path: str
    parse: Callable[[httpx.Response], Answer]
    params: Mapping[str, str | int] = field(default_factory=dict)
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    accepts: Collection[int] = ()
    """Statuses of 400 and more that are an answer too."""
    timeout_s: float = TIMEOUT_S

    def request(self, client: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        return client.build_request(
            self.method,
            BASE + self.path,
            params=dict(self.params),
            content=self.content,
            headers=dict(self.headers),
            timeout=httpx.Timeout(self.timeout_s, connect=CONNECT_TIMEOUT_S),
        )

    def answer(self, response: httpx.Response) -> Answer:
        """What the response means.

        Raises:
            WTBError: The error that the server sent, as its own class.
        """
        if response.is_success or response.status_code in self.accepts:
            try:
                return self.parse(response)
            except ValidationError as e:
                raise errors.WTBError(
                    f"{self.method} {response.url} gave an unexpected answer: {e}"
                ) from e
        raise error_of(response)


class Retry:
    """When a call without an answer is sent again: for a while if this server has answered before.

    Commands carry an idempotency key, so sending one again never does it twice.
    """

    FIRST_PATIENCE_S: Final = 1.5
    PATIENCE_S: Final = 30.0
    FIRST_DELAY_S: Final = 0.05
    AGAIN: Final = frozenset({429, 502, 503, 504})

    def __init__(self, url: str, known: bool) -> None:
        self._url = url
        self._deadline = time.monotonic() + (self.PATIENCE_S if known else self.FIRST_PATIENCE_S)
        self._delay = self.FIRST_DELAY_S
        self._lost = False

    def after_error(self, error: httpx.TransportError) -> float:
        """Seconds to wait before the call is sent again.

        Raises:
            Unavailable: It has been tried long enough.
        """
        self._lost = True
        delay = self._next()
        if delay is not None:
            return delay
        raise errors.Unavailable(
            f"no bench answers at {self._url} ({type(error).__name__}: {error}): start one with"
            " `wtb up`, or say where it is with WTB_URL or WTBTestBench(url=...)",
            url=self._url,
            reason=type(error).__name__,
        ) from error

    def after_response(self, call: Call[Any], response: httpx.Response) -> float | None:
        """Seconds to wait before the call is sent again, None if this is its answer."""
        status = response.status_code
        if status in call.accepts:
            return None
        # 429 was not even looked at; a command answered with 503 may cost a lot to repeat.
        again = status == 429 or (status in self.AGAIN and call.method != "POST")
        if self._lost and "Idempotency-Key" in call.headers and status == 409:
            # The command whose answer was lost is still being carried out under this key.
            again = error_of(response).code == errors.Conflict.code
        return self._next() if again else None

    def _next(self) -> float | None:
        delay, self._delay = self._delay, min(self._delay * 2, 2.0)
        return delay if time.monotonic() + delay < self._deadline else None


def error_of(response: httpx.Response) -> errors.WTBError:
    """The error in a response, as the class that has its code, else as one that fits its status."""
    try:
        return error_from(response.json()["error"], response.status_code)
    except (ValueError, KeyError, TypeError):
        message = f"{response.url} answered {response.status_code}: {response.text[:200]}"
        cls = _BY_STATUS.get(response.status_code, errors.WTBError)
        return cls(message, status=response.status_code)


def error_from(body: Mapping[str, Any], status: int = 500) -> errors.WTBError:
    """The error of `{"code", "message", "details"}`."""
    cls = _classes().get(body["code"]) or _BY_STATUS.get(status, errors.WTBError)
    details = dict(body.get("details") or {})
    details.pop("message", None)
    return cls(body["message"], **details)


_BY_STATUS: Final[dict[int, type[errors.WTBError]]] = {
    403: errors.Refused,
    404: errors.NotFound,
    409: errors.Conflict,
    413: errors.InvalidRequest,
    422: errors.InvalidRequest,
    429: errors.Unavailable,
    502: errors.Unavailable,
    503: errors.Unavailable,
    504: errors.Unavailable,
}


def _classes() -> dict[str, type[errors.WTBError]]:
    found, queue = {}, [errors.WTBError]
    while queue:
        cls = queue.pop()
        found[cls.code] = cls
        queue.extend(cls.__subclasses__())
    return found


def client_options(url: str, token: str | None, actor: str) -> dict[str, Any]:
    """Arguments of the httpx client, sync or async."""
    headers = {"X-Actor": actor, "User-Agent": f"wtb-ray/{__version__}"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    # A proxy from the environment knows nothing of this machine's own loopback.
    loopback = httpx.URL(url).host in ("127.0.0.1", "localhost", "::1")
    return {"base_url": url, "headers": headers, "trust_env": not loopback}


def answered(kind: Any) -> Callable[[httpx.Response], Any]:
    """Reads an answer of this kind."""
    adapter = _adapter(kind)
    return lambda response: adapter.validate_json(response.content, extra="ignore")


_adapter = cache(TypeAdapter)


def _params(**given: str | int | None) -> dict[str, str | int]:
    return {name: value for name, value in given.items() if value is not None}


def quoted(text: str, safe: str = "") -> str:
    """A name as a part of a path."""
    return quote(text, safe=safe)


def get(path: str, kind: type[Answer], **params: str | int | None) -> Call[Answer]:
    """A read."""
    return Call("GET", path, answered(kind), params=_params(**params))


def send(
    method: str,
    path: str,
    body: BaseModel | None,
    kind: type[Answer],
    timeout_s: float = TIMEOUT_S,
) -> Call[Answer]:
    """A command, under a key of its own."""
    try:
        content = None if body is None else body.model_dump_json().encode()
    except PydanticSerializationError as e:
        raise errors.InvalidRequest(
            f"what is sent must be JSON: {e}", field="body", reason="not_json"
        ) from e
    headers = {"Idempotency-Key": new_id("k")}
    if content is not None:
        headers["Content-Type"] = "application/json"
    return Call(method, path, answered(kind), content=content, headers=headers, timeout_s=timeout_s)


def _post(
    path: str, body: BaseModel, kind: type[Answer], timeout_s: float = TIMEOUT_S
) -> Call[Answer]:
    return send("POST", path, body, kind, timeout_s)


def ready() -> Call[api.Health]:
    """Whether the bench can serve requests now; not ready is an answer too."""
    return Call("GET", "/ready", answered(api.Health), accepts=(503,))


def has_bundle(digest: str) -> Call[bool]:
    return Call("HEAD", f"/bundles/{digest}", lambda r: r.is_success, accepts=(404,))


def put_bundle(digest: str, data: bytes) -> Call[None]:
    headers = {"Content-Type": "application/zip"}
    return Call("PUT", f"/bundles/{digest}", lambda _: None, content=data, headers=headers)


def register(spec: ProjectSpec) -> Call[ProjectVersion]:
    return _post("/workflows", spec, ProjectVersion, REGISTER_TIMEOUT_S)


def projects(after: str | None, limit: int = PAGE) -> Call[api.Page[ProjectVersion]]:
    return get("/workflows", api.Page[ProjectVersion], after=after, limit=limit)


def project(name: str, version: str | None = None) -> Call[ProjectVersion]:
    return get(f"/workflows/{quoted(name)}", ProjectVersion, version=version)


def versions(name: str, after: str | None, limit: int = PAGE) -> Call[api.Page[ProjectVersion]]:
    kind = api.Page[ProjectVersion]
    return get(f"/workflows/{quoted(name)}/versions", kind, after=after, limit=limit)


def nodes(name: str, version: str | None = None) -> Call[list[api.NodeView]]:
    return get(f"/workflows/{quoted(name)}/nodes", list[api.NodeView], version=version)


def execute(project: str, request: api.ExecuteRequest) -> Call[Execution]:
    return _post(f"/workflows/{quoted(project)}/execute", request, Execution)


def execution(id: str) -> Call[Execution]:
    return get(f"/executions/{quoted(id)}", Execution)


def executions(
    after: str | None,
    limit: int = PAGE,
    *,
    project: str | None = None,
    status: str | None = None,
    batch: str | None = None,
) -> Call[api.Page[Execution]]:
    return get(
        "/executions",
        api.Page[Execution],
        after=after,
        limit=limit,
        project=project,
        status=status,
        batch=batch,
    )


def state(id: str, checkpoint: str | None = None) -> Call[api.StateView]:
    return get(f"/executions/{quoted(id)}/state", api.StateView, checkpoint=checkpoint)


def checkpoints(id: str, after: str | None, limit: int = PAGE) -> Call[api.Page[api.Checkpoint]]:
    kind = api.Page[api.Checkpoint]
    return get(f"/executions/{quoted(id)}/checkpoints", kind, after=after, limit=limit)


def stop(
    id: str, reason: str | None = None, kill: bool = False, cell: int | None = None
) -> Call[Execution]:
    request = control.StopRequest(reason=reason, kill=kill, cell=cell)
    return _post(f"/executions/{quoted(id)}/stop", request, Execution)


def files(
    id: str,
    after: str | None,
    limit: int = PAGE,
    *,
    checkpoint: str | None = None,
    prefix: str = "",
) -> Call[api.FileList]:
    path = f"/executions/{quoted(id)}/files"
    kind = api.FileList
    return get(path, kind, after=after, limit=limit, checkpoint=checkpoint, prefix=prefix or None)


def file(id: str, path: str, checkpoint: str | None = None) -> Call[bytes]:
    """The bytes of a file, or its response to be read piece by piece."""

    def parse(response: httpx.Response) -> bytes:
        check_digest(path, unquoted(response.headers.get("ETag")), digest(response.content))
        return response.content

    # A dot segment would be taken out of the URL on the way: no file is called so.
    if {".", "..", ""} & set(path.split("/")):
        raise errors.UnknownFile(f"{path!r} is no path of a file", field="path", reason="no path")
    return Call(
        "GET",
        f"/executions/{quoted(id)}/files/{quote(path)}",
        parse,
        params=_params(checkpoint=checkpoint),
        timeout_s=FILE_TIMEOUT_S,
    )


def diff(
    id: str,
    after: str | None,
    limit: int = PAGE,
    *,
    from_checkpoint: str | None = None,
    to_checkpoint: str | None = None,
    other: str | None = None,
    text: bool = False,
    state: bool = False,
) -> Call[api.FilesDiff]:
    """How files and state differ; with `state`, the state alone."""
    given = _params(
        after=after,
        limit=limit,
        to=to_checkpoint,
        execution=other,
        text="true" if text else None,
        state="true" if state else None,
        **{"from": from_checkpoint},
    )
    return Call("GET", f"/executions/{quoted(id)}/diff", answered(api.FilesDiff), params=given)


def trash(id: str, after: str | None, limit: int = PAGE) -> Call[api.Page[TrashedFile]]:
    kind = api.Page[TrashedFile]
    return get(f"/executions/{quoted(id)}/trash", kind, after=after, limit=limit)


def restore_trash(id: str, request: api.TrashRestoreRequest) -> Call[api.RestoredTrash]:
    return _post(f"/executions/{quoted(id)}/trash/restore", request, api.RestoredTrash)


def batch_test(request: api.BatchTestRequest) -> Call[Batch]:
    return _post(BATCHES, request, Batch)


def batch_test_of(body: bytes, key: str) -> Call[Batch]:
    """The batch of a request in its JSON form, made once under this key, whoever sends it."""
    headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
    return Call("POST", BATCHES, answered(Batch), content=body, headers=headers)


def batch_id_of(body: bytes, key: str) -> str:
    """The id of the batch that `batch_test_of` makes, or has made."""
    return keyed_id("b", keyed_seed(key, request_digest("POST", BASE + BATCHES, "", body)))


def batch(id: str) -> Call[Batch]:
    return get(f"/batch-tests/{quoted(id)}", Batch)


def find_batch(id: str) -> Call[Batch | None]:
    """A batch, None while there is none of this id."""
    parse = answered(Batch)
    return Call(
        "GET",
        f"{BATCHES}/{quoted(id)}",
        lambda r: None if r.status_code == 404 else parse(r),
        accepts=(404,),
    )


def batches(
    after: str | None, limit: int = PAGE, *, project: str | None = None, status: str | None = None
) -> Call[api.Page[Batch]]:
    kind = api.Page[Batch]
    return get("/batch-tests", kind, after=after, limit=limit, project=project, status=status)


def progress(id: str) -> Call[api.Progress]:
    return get(f"/batch-tests/{quoted(id)}/progress", api.Progress)


def results(
    id: str, after: str | None, limit: int = PAGE, *, status: str | None = None
) -> Call[api.Page[api.CellResult]]:
    kind = api.Page[api.CellResult]
    path = f"/batch-tests/{quoted(id)}/results"
    return get(path, kind, after=after, limit=limit, status=status)


def batch_tree(id: str, case: str | None = None, repetition: int | None = None) -> Call[BatchTree]:
    return get(f"/batch-tests/{quoted(id)}/tree", BatchTree, case=case, repetition=repetition)


def leaderboard(id: str) -> Call[api.Leaderboard | None]:
    """The leaderboard, None while it is being computed."""
    parse = answered(api.Leaderboard)
    return Call(
        "GET",
        f"/batch-tests/{quoted(id)}/leaderboard",
        lambda r: None if r.status_code == 202 else parse(r),
    )


def rerun_batch(id: str, request: control.RerunRequest) -> Call[Batch]:
    return _post(f"/batch-tests/{quoted(id)}/rerun", request, Batch)


def set_budget(id: str, change: control.BatchChange) -> Call[Batch]:
    return send("PATCH", f"/batch-tests/{quoted(id)}", change, Batch)


def extend_batch(id: str, request: control.ExtendRequest) -> Call[Batch]:
    return _post(f"/batch-tests/{quoted(id)}/extend", request, Batch)


def stop_batch(id: str, reason: str | None = None, variant: str | None = None) -> Call[Batch]:
    request = api.StopRequest(reason=reason, variant=variant)
    return _post(f"/batch-tests/{quoted(id)}/stop", request, Batch)
