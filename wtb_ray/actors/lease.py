"""The two OS threads that watch over a runner process, outside its event loop.

A node that blocks the loop must not cost the runner its lease, so the lease is renewed by a thread
with a connection of its own. And a blocked loop must not go unnoticed, so a second thread measures
its lag and names the node that is on the stack.
"""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

import psycopg

from wtb_ray.db import LIVENESS
from wtb_ray.store.leases import RENEW_SQL

log = logging.getLogger(__name__)

LAG_S: Final = 1.0


class LeaseKeeper:
    """Renews a lease every third of its length until stopped; calls `lost` once when it is taken away."""

    def __init__(
        self, url: str, runner_id: str, epoch: int, ttl_s: float, lost: Callable[[], None]
    ):
        self._url = url
        self._params = {"id": runner_id, "epoch": epoch, "ttl_s": ttl_s}
        self._every = ttl_s / 3
        self._lost = lost
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        conn: psycopg.Connection[Any] | None = None
        while not self._stopped.wait(self._every):
            try:
                if conn is None or conn.closed:
                    conn = psycopg.connect(self._url, autocommit=True, **LIVENESS)
                renewed = conn.execute(RENEW_SQL, self._params).fetchone()
            except psycopg.Error as e:
                log.warning("lease not renewed: %s", e, extra={"action": "renew"})
                conn = None
                continue
            if renewed is None and not self._stopped.is_set():
                self._lost()
                return


class LoopWatch:
    """Measures how late the event loop is, and says which node held it up.

    `lagged(lag_ms, nodes)` is called in the loop after it came back, once per hold-up; and
    `stalled(nodes)` in the watching thread when it has not come back within the limit.
    """

    def __init__(
        self,
        lagged: Callable[[float, list[str]], None],
        limit_s: float,
        stalled: Callable[[list[str]], None],
    ):
        self._lagged = lagged
        self._limit_s = limit_s
        self._stalled = stalled
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="loop-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(LAG_S / 4):
            answered = threading.Event()
            asked = time.monotonic()
            self._loop.call_soon_threadsafe(answered.set)
            nodes: set[str] = set()
            while not answered.wait(LAG_S) and not self._stopped.is_set():
                frame = sys._current_frames().get(self._loop_thread)
                if (name := node_on_stack(frame)) is not None:
                    nodes.add(name)
                if time.monotonic() - asked > self._limit_s:
                    self._stalled(sorted(nodes))
            lag = time.monotonic() - asked
            if lag >= LAG_S and not self._stopped.is_set():
                self._loop.call_soon_threadsafe(self._lagged, lag * 1000, sorted(nodes))


def node_on_stack(frame: FrameType | None) -> str | None:
    """The LangGraph node whose code the frame runs: LangGraph calls it with a config that names it."""
    while frame is not None:
        config = frame.f_locals.get("config")
        metadata = config.get("metadata") if isinstance(config, dict) else None
        if isinstance(metadata, dict) and "langgraph_node" in metadata:
            return str(metadata["langgraph_node"])
        frame = frame.f_back
    return None
