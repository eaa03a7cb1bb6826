"""A scripted server for the SDK's parsing, and both benches behind one face."""

import inspect
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx

from wtb_ray.sdk import AsyncTestBench, WTBTestBench

URL = "http://bench.test"
NOW = "2026-01-01T00:00:00Z"
EXECUTION = {
    "id": "e1",
    "project": "rag",
    "version": "v",
    "binding": {"search": "<b>fast</b>"},
    "status": "COMPLETED",
    "epoch": 1,
    "thread_id": "e1.0",
    "recursion_limit": 100,
    "created_at": NOW,
    "a_field_of_a_newer_server": 1,
}
STATE = {
    "execution_id": "e1",
    "checkpoint_id": "c9",
    "step": 5,
    "status": "COMPLETED",
    "next_nodes": [],
    "values": {"answer": "<42>"},
}
BATCH = {
    "id": "b1",
    "project": "rag",
    "version": "v",
    "status": "RUNNING",
    "variants": ["base"],
    "bindings": [{}],
    "scorers": [],
    "repetitions": 1,
    "node_errors": "zero",
    "cases": 1,
    "cells": 3,
    "counts": {"RUNNING": 3},
    "created_at": NOW,
}
BOARD = {
    "batch_id": "b1",
    "digest": "d",
    "primary": "exact",
    "node_errors": "zero",
    "rows": [
        {
            "rank": 1,
            "variant": "<base>",
            "binding": {},
            "metrics": [
                {"metric": "exact", "n": 3, "cases": 3, "mean": 0.5, "low": 0.2, "high": 0.8}
            ],
            "cells": 3,
            "done": 3,
            "errors": 0,
            "excluded": 0,
            "latency_p50_ms": 12.0,
            "latency_p95_ms": 1300.0,
        }
    ],
    "complete": True,
    "notes": ["one repetition"],
}


def progress(status: str, finished: int) -> dict[str, Any]:
    counts = {"DONE": finished, "RUNNING": 3 - finished}
    percent = 100 * finished / 3
    return {
        "id": "b1",
        "status": status,
        "total": 3,
        "counts": counts,
        "finished": finished,
        "percent": percent,
        "rate": None,
        "remaining_s": None,
    }


def cell(id: int) -> dict[str, Any]:
    return {
        "id": id,
        "variant": "base",
        "binding": {},
        "case_id": f"case-{id}",
        "repetition": 0,
        "status": "DONE",
        "execution_id": "e1",
        "scores": {"exact": 1.0},
        "latency_ms": 3.0,
    }


def failed(status: int, code: str, message: str = "no", **details: Any) -> httpx.Response:
    body = {"error": {"code": code, "message": message, "details": details}}
    return httpx.Response(status, json=body)


Reply = dict[str, Any] | list[Any] | httpx.Response | Exception


class Server:
    """Answers in the order given; the last answer of a route stays."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self._replies: dict[str, list[Reply]] = {}

    def on(self, route: str, *replies: Reply) -> None:
        self._replies[route] = list(replies)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        route = f"{request.method} {request.url.path.removeprefix('/api/v1')}"
        replies = self._replies[route]
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if isinstance(reply, Exception):
            raise reply
        if not isinstance(reply, httpx.Response):
            return httpx.Response(200, json=reply)
        if isinstance(reply.stream, Cut):
            return reply
        # One is sent only once.
        return httpx.Response(reply.status_code, content=reply.content, headers=reply.headers)

    @property
    def sent(self) -> list[str]:
        return [f"{r.method} {r.url.path.removeprefix('/api/v1')}" for r in self.requests]

    def body(self, number: int = 0) -> Any:
        return json.loads(self.requests[number].content)


class Both:
    """A bench of either kind, always awaited."""

    def __init__(self, bench: WTBTestBench | AsyncTestBench) -> None:
        self.bench = bench

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            return await done(getattr(self.bench, name)(*args, **kwargs))

        return call


async def done(value: Any) -> Any:
    if inspect.isasyncgen(value):
        return [item async for item in value]
    if inspect.isgenerator(value):
        return list(value)
    return await value if inspect.isawaitable(value) else value


class Cut(httpx.AsyncByteStream, httpx.SyncByteStream):
    """A body that ends in a lost connection, in pieces that respect no boundary."""

    def __init__(self, data: bytes) -> None:
        self._pieces = [data[i : i + 7] for i in range(0, len(data), 7)]

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces
        raise httpx.ReadError("cut")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece
        raise httpx.ReadError("cut")
