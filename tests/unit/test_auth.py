"""Only loopback is served."""

import pytest

from wtb_ray import errors
from wtb_ray.serve.auth import Gate, actor, is_loopback, require_loopback, trusted_peers
from wtb_ray.settings import Settings


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "[::1]",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "::ffff:127.0.0.1",
    ],
)
def test_loopback_names(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["", "0.0.0.0", "10.0.0.1", "::", "fe80::1", "evil.com", "localhost.evil.com", "127.0.0.1.evil.com",
     "::ffff:10.0.0.1", "127.1", "0x7f000001", "127.0.0.1@evil.com"],
)  # fmt: skip
def test_other_names(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({}, "host"),
        ({"host": ""}, "host"),
        ({"host": "evil.com"}, "host"),
        ({"host": "evil.com:8000"}, "host"),
        ({"host": "10.1.2.3:8000"}, "host"),
        ({"host": "127.0.0.1.evil.com"}, "host"),
        ({"host": "user@evil.com"}, "host"),
        ({"host": "[::1"}, "host"),
        ({"host": "localhost:8000", "origin": "https://evil.com"}, "origin"),
        ({"host": "localhost:8000", "origin": "null"}, "origin"),
        ({"host": "localhost:8000", "origin": "http://localhost.evil.com:8000"}, "origin"),
    ],
)
def test_http_requests_that_are_refused(headers: dict[str, str], field: str) -> None:
    with pytest.raises(errors.Refused) as e:
        Gate().http("127.0.0.1", headers.get)
    assert e.value.details["field"] == field


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "localhost"},
        {"host": "127.0.0.1:8000"},
        {"host": "[::1]:8000"},
        {"host": "LocalHost:8000", "origin": "http://127.0.0.1:8000"},
    ],
)
def test_http_requests_of_this_machine(headers: dict[str, str]) -> None:
    Gate().http("::1", headers.get)


@pytest.mark.parametrize("client", [None, "", "10.0.0.9", "testclient", "172.17.0.2"])
def test_other_clients_are_refused(client: str | None) -> None:
    with pytest.raises(errors.Refused):
        Gate().http(client, {"host": "localhost"}.get)


@pytest.mark.parametrize(
    ("peer", "served"),
    [
        ("ipv4:127.0.0.1:4711", True),
        ("ipv6:%5B::1%5D:4711", True),
        ("ipv6:[::1]:4711", True),
        ("ipv6:%5B::ffff:127.0.0.1%5D:4711", True),
        ("ipv4:172.17.0.2:4711", False),
        ("ipv6:%5Bfe80::1%5D:4711", False),
        ("unix:/tmp/socket", False),
        ("", False),
    ],
)
def test_grpc_peers(peer: str, served: bool) -> None:
    if served:
        Gate().peer(peer)
    else:
        with pytest.raises(errors.Refused):
            Gate().peer(peer)


def test_own_addresses_are_peers_only_behind_haproxy() -> None:
    assert trusted_peers({}) == frozenset()
    own = trusted_peers({"RAY_SERVE_ENABLE_HA_PROXY": "1"})
    assert "127.0.0.1" in own
    for address in own:
        Gate(own).address(address)
    with pytest.raises(errors.Refused):
        Gate(own).address("203.0.113.7")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com", ""])
def test_listening_elsewhere_is_refused(host: str) -> None:
    with pytest.raises(errors.ConfigurationError) as e:
        require_loopback(Settings(http_host=host))
    assert e.value.details["field"] == "http_host"


def test_listening_on_loopback() -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        require_loopback(Settings(http_host=host))


def test_actor_names() -> None:
    assert actor("http", None) == "http"
    assert actor("http", "ci") == "http:ci"
    assert actor("grpc", "anna@example.com") == "grpc:anna@example.com"
    for claimed in ("a b", "a:b", "x" * 65, "ä", "a\nb"):
        with pytest.raises(errors.InvalidRequest):
            actor("http", claimed)
