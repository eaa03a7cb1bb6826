"""The RAG example with what is outside its process: other processes, and a chat service."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver

from wtb_ray import entries
from wtb_ray.context import WORKSPACE_ENV, Context, entered
from wtb_ray.errors import ConfigurationError, NodeFailed
from wtb_ray.examples import rag
from wtb_ray.model import FileTrackingConfig, digest
from wtb_ray.objects import ObjectStore
from wtb_ray.trees import TrackedTree

QUESTION = "How can I merge several sorted inputs into one sorted output?"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workspace of runs outside the bench."""
    monkeypatch.setenv(WORKSPACE_ENV, str(tmp_path))
    return tmp_path


@dataclass
class Service:
    """A chat service on this host that replies what it is told to, and keeps what it was asked."""

    url: str = ""
    replies: list[tuple[int, Any]] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)

    def says(self, text: str, status: int = 200) -> None:
        self.replies.append((status, {"choices": [{"message": {"content": text}}]}))


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    made = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.paths.append(self.path)
            made.keys.append(self.headers.get("Authorization"))
            made.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            status, body = made.replies.pop(0)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Requests are kept, not printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_port}/v1"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_BASE_URL", made.url)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("OPENAI_MODEL", "tiny")
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


async def answered(question: str = QUESTION) -> dict[str, Any]:
    """The final state with the chat model's answer."""
    variant = rag.project().variants["answer"]["chat"]
    path = variant.implementation or ""
    chat = entries.load_implementation(path, field="answer")
    builder = entries.load_entry(rag.project().entry).builder
    app = entries.bind(builder, {"answer": chat}).compile(InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    state: dict[str, Any] = await app.ainvoke({"question": question}, config)
    return state


async def test_the_model_chooses_among_the_candidates(service: Service) -> None:
    service.says("`heapq.nlargest`? No: the answer is heapq.merge(*iterables).")
    state = await answered()
    assert state["answer"] == "heapq.merge"
    assert service.paths == ["/v1/chat/completions"]
    assert service.keys == ["Bearer secret"]
    [request] = service.asked
    assert request["model"] == "tiny"
    prompt = request["messages"][-1]["content"]
    assert QUESTION in prompt
    assert all(name in prompt for name in state["candidates"])


async def test_a_reply_that_names_no_candidate_is_kept(service: Service) -> None:
    service.says("I would write a loop.\n")
    assert (await answered())["answer"] == "I would write a loop."


async def test_without_candidates_nobody_is_asked(service: Service) -> None:
    assert (await answered("???"))["answer"] == ""
    assert service.asked == []


async def test_parameters_go_before_the_environment(service: Service) -> None:
    service.says("heapq.merge")
    params = {"answer": {"model": "large", "temperature": 0}}
    with entered(Context("e", params, "")):
        await answered()
    assert service.asked[0]["model"] == "large"
    assert service.asked[0]["temperature"] == 0


async def test_a_busy_service_is_asked_again(service: Service) -> None:
    service.says("", status=503)
    service.says("heapq.merge")
    assert (await answered())["answer"] == "heapq.merge"
    assert len(service.asked) == 2


async def test_a_refusal_is_an_error_at_once(service: Service) -> None:
    service.says("", status=401)
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        await answered()
    assert len(service.asked) == 1


async def test_an_answer_in_another_form_is_an_error(service: Service) -> None:
    service.replies.append((200, {"error": "no such model"}))
    with pytest.raises(NodeFailed) as raised:
        await answered()
    assert "no such model" in raised.value.details["reason"]


async def test_without_a_url_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ConfigurationError) as raised:
        await answered()
    assert raised.value.details["field"] == "OPENAI_BASE_URL"


RUN = """
import json, logging, sys
__import__(sys.argv.pop())
from langgraph.checkpoint.postgres import PostgresSaver
from wtb_ray import bindings, entries
from wtb_ray.examples import rag
from wtb_ray.examples.rag.corpus import corpus
from wtb_ray.model import digest
logging.basicConfig(level=logging.INFO, format="%(message)s")
url, deed, question = sys.argv[1:]
answers = {}
with PostgresSaver.from_conn_string(url) as saver:
    for retriever in ("bm25", "tfidf", "char"):
        path = bindings.implementations(rag.project(), {"retrieve": retriever})["retrieve"]
        found = {"retrieve": entries.load_implementation(path, field="retrieve")}
        builder = entries.bind(entries.load_entry(rag.project().entry).builder, found)
        app = builder.compile(saver, interrupt_after=["load"] if deed == "cut" else [])
        config = {"configurable": {"thread_id": retriever if deed != "whole" else "w" + retriever}}
        state = app.invoke(None if deed == "go on" else {"question": question}, config)
        answers[retriever] = [state.get(key) for key in ("answer", "candidates", "hits")]
print(json.dumps([answers, digest([case.model_dump() for case in rag.cases()]), corpus().digest]))
"""


class Run(NamedTuple):
    """What a fresh process says."""

    answers: dict[str, Any]
    cases: str
    """Their digest."""
    corpus: str
    """Its digest."""
    built: bool
    """Whether it built an index."""


def run(url: str, workspace: Path, deed: str, seed: str, first: str) -> Run:
    """Runs in a process with hashes of its own that imports another library first."""
    question = "What removes a direktory tree rekursively?"
    done = subprocess.run(
        [sys.executable, "-c", RUN, url, deed, question, first],
        env={**os.environ, WORKSPACE_ENV: str(workspace), "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    answers, cases, corpus = json.loads(done.stdout)
    return Run(answers, cases, corpus, "indexing" in done.stderr)


async def test_a_run_that_was_cut_off_goes_on_with_the_restored_index(
    url: str, tmp_path: Path
) -> None:
    """Another process in another directory: the same answers, and no index is built.

    Cases and corpus are the same in every process.
    """
    with PostgresSaver.from_conn_string(url) as saver:
        saver.setup()
    first, second, whole = (tmp_path / name for name in ("first", "second", "whole"))
    for directory in (first, second, whole):
        (directory / "files").mkdir(parents=True)
    wanted, cut = await asyncio.gather(
        asyncio.to_thread(run, url, whole / "files", "whole", "1", "langgraph"),
        asyncio.to_thread(run, url, first / "files", "cut", "2", "ray"),  # patches the library
    )
    assert wanted.built
    assert cut.built
    assert all(answer for answer, _, _ in wanted.answers.values())
    assert cut.answers == {retriever: [None, None, None] for retriever in wanted.answers}
    # The corpus is not compared with this process, in which other tests have patched the library.
    assert (wanted.cases, wanted.corpus) == (cut.cases, cut.corpus)
    assert wanted.cases == digest([case.model_dump() for case in rag.cases()])
    config = FileTrackingConfig()
    async with ObjectStore(f"file://{tmp_path}/objects") as objects:
        tree = TrackedTree(first / "files", config, objects, beside=first)
        kept = await tree.snapshot()
        shutil.rmtree(first)
        await TrackedTree(second / "files", config, objects, beside=second).restore(kept.manifest)
    gone_on = await asyncio.to_thread(run, url, second / "files", "go on", "3", "langgraph")
    assert gone_on == wanted._replace(built=False)
