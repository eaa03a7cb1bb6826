"""Where the bench is, where there must be none, and what a notebook shows."""

import httpx
import pytest

from tests.unit.sdk_server import BATCH, BOARD, EXECUTION, STATE, URL, Server
from wtb_ray import api, errors, model
from wtb_ray.model import RUNNER_ENV
from wtb_ray.sdk import AsyncTestBench, Batch, Execution, WTBTestBench


@pytest.mark.parametrize("cls", [WTBTestBench, AsyncTestBench])
def test_a_script_without_a_guard_is_told_so(
    monkeypatch: pytest.MonkeyPatch, cls: type[WTBTestBench]
) -> None:
    monkeypatch.setenv(RUNNER_ENV, "1")
    with pytest.raises(errors.Refused, match="if __name__ == '__main__'"):
        cls(URL)


def test_the_url_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WTB_URL", "http://10.0.0.1:8000/api/v1/")
    assert WTBTestBench().url == "http://10.0.0.1:8000"


def test_an_address_without_scheme_is_refused() -> None:
    with pytest.raises(errors.ConfigurationError, match="http://"):
        WTBTestBench("localhost:8000")


async def test_a_notebook_shows_what_is_there_and_escapes_it(server: Server) -> None:
    execution = Execution(
        model.Execution(**{k: v for k, v in EXECUTION.items() if not k.startswith("a_field")}),
        api.StateView(**STATE),
    )
    html = execution._repr_html_()
    assert "search=&lt;b&gt;fast&lt;/b&gt;" in html
    assert "&lt;42&gt;" in html
    server.on("GET /batch-tests/b1/leaderboard", BOARD)
    with WTBTestBench(URL, transport=httpx.MockTransport(server)) as bench:
        running = Batch(bench, model.Batch(**BATCH))
        assert "3 running" in running._repr_html_()
        ended = Batch(bench, model.Batch(**{**BATCH, "status": "COMPLETED"}))
        html = ended._repr_html_()
    assert "<td>&lt;base&gt;</td><td>0.500 [0.200, 0.800]</td>" in html
    assert "1,300 ms" in html
    assert "<p>one repetition</p>" in html
