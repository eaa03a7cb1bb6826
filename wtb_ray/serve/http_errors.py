"""Every error that HTTP gives has one form: `{"error": {"code", "message", "details"}}`.

Errors of ours keep their code and status; what nobody expected becomes a 500 with a request id,
and its traceback goes to the log, never to the client.
"""

import http
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wtb_ray import errors
from wtb_ray.model import new_id
from wtb_ray.serve.auth import Gate
from wtb_ray.serve.context import unstorable

log = logging.getLogger(__name__)

CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
MESSAGES = {404: "there is no such route", 405: "the route does not take this method"}


class ErrorBody(BaseModel):
    """What went wrong."""

    code: str
    message: str
    details: dict[str, Any]


class ErrorAnswer(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorBody


def answer(
    status: int,
    code: str,
    message: str,
    details: Mapping[str, Any],
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    body = {"code": code, "message": message, "details": details}
    return JSONResponse({"error": body}, status, dict(headers or {}))


def answer_to(error: errors.WTBError) -> JSONResponse:
    """The answer that an error of ours means."""
    headers = {"Retry-After": "1"} if isinstance(error, errors.Unavailable) else None
    return JSONResponse({"error": error.body()}, error.http_status, headers)


def field_of(loc: Sequence[int | str], body: Any, *, missing: bool = False) -> str:
    """Where in the request the fault is, as a dotted path.

    Pydantic puts the name of the union's branch between the steps; only what leads further into
    what was sent is kept, and the last step where that is what is missing.
    """
    source, *steps = loc or ("body",)
    if source != "body":
        return ".".join(map(str, steps or [source]))
    path = []
    value: Any = body
    for i, step in enumerate(steps):
        items = dict(enumerate(value)) if isinstance(value, list) else value
        if isinstance(items, dict) and step in items:
            value = items[step]
        elif not (missing and i == len(steps) - 1):
            continue
        path.append(str(step))
    return ".".join(path) or "body"


async def _ours(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.WTBError)
    return answer_to(error)


async def _data(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, psycopg.DataError)
    return answer_to(unstorable(error))


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = [_fault(fault, error.body) for fault in error.errors()]
    first = found[0]
    message = f"{first['field']}: {first['reason']}"
    return answer(422, errors.InvalidRequest.code, message, {**first, "errors": found})


def _fault(fault: Mapping[str, Any], body: Any) -> dict[str, str]:
    if fault["type"] == "json_invalid":
        return {"field": "body", "reason": f"no JSON: {fault['ctx']['error']}"}
    if isinstance(body, bytes):
        return {"field": "body", "reason": "send JSON with Content-Type: application/json"}
    field = field_of(fault["loc"], body, missing=fault["type"] == "missing")
    return {"field": field, "reason": fault["msg"]}


async def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = error.status_code
    code = CODES.get(status, http.HTTPStatus(status).phrase.lower().replace(" ", "_"))
    return answer(status, code, MESSAGES.get(status, str(error.detail)), {}, error.headers)


def install(api: FastAPI) -> None:
    """Makes the application answer errors in our form."""
    api.add_exception_handler(errors.WTBError, _ours)
    api.add_exception_handler(psycopg.DataError, _data)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _http)


class Entrance:
    """The outermost layer: who may come in, how much may be sent, what unexpected errors show."""

    def __init__(self, app: ASGIApp, gate: Gate, max_body_mb: int) -> None:
        self._app = app
        self._gate = gate
        self._limit = max_body_mb << 20

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            self._admit(request)
            await self._app(scope, self._limited(receive), sending)
        except errors.WTBError as e:
            await answer_to(e)(scope, receive, send)
        except HTTPException as e:
            await (await _http(request, e))(scope, receive, send)
        except Exception:
            identity = request.headers.get("x-request-id") or new_id("rq")
            log.exception("request %s: %s %s", identity, request.method, request.url.path)
            if started:
                raise
            message = "unexpected error; the log has more under this request id"
            response = answer(500, "internal", message, {"request_id": identity})
            await response(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(HTTPConnection(scope))
        except errors.Refused as e:
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": e.message})
            return
        await self._app(scope, receive, send)

    def _check(self, connection: HTTPConnection) -> None:
        client = connection.client.host if connection.client else None
        self._gate.http(client, connection.headers.get)

    def _admit(self, request: Request) -> None:
        self._check(request)
        if "\0" in request.scope["path"] or b"%00" in request.scope["query_string"]:
            raise errors.InvalidRequest("a NUL character", field="url", reason="not a URL of ours")
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._limit:
            raise self._too_large()

    def _limited(self, receive: Receive) -> Receive:
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self._limit:
                    raise self._too_large()
            return message

        return limited

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"a request body has at most {self._limit >> 20} MiB")
