"""What is an overload, by what exceptions of well-known clients say, and how long to wait after it."""

import concurrent.futures
import email.utils
import time
from typing import Any

import aiohttp
import httpx
import pytest
import requests
from botocore.exceptions import ClientError, ReadTimeoutError
from langgraph.errors import NodeTimeoutError

from wtb_ray import errors, plan
from wtb_ray.crossing import RemoteTraceback
from wtb_ray.overload import CODES, Overload, overload_of

REQUEST = httpx.Request("POST", "http://model/v1")


def answered(status: int, **headers: str) -> httpx.HTTPStatusError:
    response = httpx.Response(status, headers=headers, request=REQUEST)
    return httpx.HTTPStatusError(str(status), request=REQUEST, response=response)


def named(name: str, base: type[Exception] = Exception, **attributes: Any) -> Exception:
    error: Exception = type(name, (base,), {})("it says so")
    for key, value in attributes.items():
        setattr(error, key, value)
    return error


def of_requests(status: int, after: str) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    response.headers["Retry-After"] = after
    return requests.HTTPError("no", response=response)


def throttled(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": ""}}, "InvokeModel")


def raised_from(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def while_handling(error: Exception, context: BaseException) -> Exception:
    error.__context__ = context
    return error


class Treacherous(Exception):
    @property
    def status_code(self) -> int:
        raise KeyboardInterrupt if False else RuntimeError("not even this")


RATE_LIMITED = [
    answered(429),
    answered(503),
    answered(529),
    of_requests(429, "1"),
    named("RateLimitError"),
    named("ThrottledBySomebody", type("RateLimitError", (Exception,), {})),
    named("OverloadedError"),
    named("Whatever", status_code=429),
    aiohttp.ClientResponseError(None, (), status=429),  # type: ignore[arg-type]
    throttled("ThrottlingException"),
    throttled("SlowDown"),
    raised_from(ValueError("no answer"), answered(429)),
    raised_from(RuntimeError("a"), raised_from(RuntimeError("b"), named("RateLimitError"))),
    ExceptionGroup("both", [answered(429), TimeoutError()]),
]
TIMED_OUT = [
    TimeoutError(),
    TimeoutError(),
    concurrent.futures.TimeoutError(),
    named("APITimeoutError"),
    httpx.ReadTimeout("slow"),
    httpx.ConnectTimeout("slow"),
    httpx.PoolTimeout("slow"),
    requests.ReadTimeout("slow"),
    requests.ConnectTimeout("slow"),
    ReadTimeoutError(endpoint_url="http://model"),
    aiohttp.ServerTimeoutError(),
    NodeTimeoutError("n", 1.0, kind="run", run_timeout=1.0),
    raised_from(ValueError("no answer"), httpx.ReadTimeout("slow")),
]
THE_USERS = [
    ValueError("Timeout"),
    answered(400),
    answered(500),
    answered(404),
    of_requests(401, "1"),
    throttled("AccessDenied"),
    named("MyTimeoutPolicyIsWrong"),
    httpx.ConnectError("refused"),
    while_handling(KeyError("text"), answered(429)),
    ExceptionGroup("one of them", [answered(429), ValueError("mine")]),
    Treacherous(),
    errors.LimitUnmeetable("too much"),
]


@pytest.mark.parametrize("error", RATE_LIMITED, ids=repr)
def test_what_is_overloaded(error: Exception) -> None:
    found = overload_of(error)
    assert found is not None
    assert found.code == "rate_limited"


@pytest.mark.parametrize("error", TIMED_OUT, ids=repr)
def test_what_took_too_long(error: Exception) -> None:
    assert overload_of(error) == Overload("timed_out")


@pytest.mark.parametrize("error", THE_USERS, ids=repr)
def test_what_is_the_users_own(error: Exception) -> None:
    assert overload_of(error) is None


def test_a_chain_that_leads_back_to_itself_ends() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert overload_of(first) is None


def test_what_stayed_in_another_process_is_told_with_the_traceback() -> None:
    told = Overload("rate_limited", 3.0)
    assert overload_of(raised_from(ValueError("odd"), RemoteTraceback("...", told))) == told


@pytest.mark.parametrize(
    ("header", "value", "seconds"),
    [
        ("Retry-After", "7", 7.0),
        ("retry-after", "0.5", 0.5),
        ("retry-after-ms", "250", 0.25),
        ("Retry-After", "-3", 0.0),
        ("Retry-After", "999999", 3600.0),
        ("Retry-After", "nan", None),
    ],
)
def test_how_long_it_asks_to_be_left_alone(header: str, value: str, seconds: float | None) -> None:
    assert overload_of(answered(429, **{header: value})) == Overload("rate_limited", seconds)


def test_a_date_counts_too_and_what_is_none_is_passed_over() -> None:
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    found = overload_of(answered(429, **{"Retry-After": date}))
    assert found is not None
    assert found.retry_after_s == pytest.approx(100, abs=5)
    assert overload_of(answered(429, **{"Retry-After": "tomorrow"})) == Overload("rate_limited")


def test_the_delay_doubles_spreads_and_is_never_shorter_than_asked_for() -> None:
    assert [plan.overload_delay(n, None, 1.0) for n in (1, 2, 3, 10)] == [1, 2, 4, 60]
    assert [plan.overload_delay(n, None, 0.0) for n in (1, 2)] == [0.5, 1]
    assert all(plan.overload_delay(n, 30.0, c) >= 30 for n in (1, 5) for c in (0.0, 0.5, 1.0))
    assert plan.overload_delay(10**9, None, 1.0) == 60


def test_the_codes_are_those_of_the_errors() -> None:
    assert {errors.RateLimited.code, errors.TimedOut.code} == CODES
