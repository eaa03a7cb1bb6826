"""Secrets: where they are looked for, and where they never appear."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from wtb_ray import channels, errors, secret_values, telemetry
from wtb_ray.faults import fault_of
from wtb_ray.secret_values import secret

VALUE = 'open "sesame"\\42'


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Each test is a process that has asked for nothing yet."""
    monkeypatch.setattr(secret_values, "_known", {})
    monkeypatch.setenv("WTB_SECRETS_DIR", str(tmp_path))
    out, err = sys.stdout, sys.stderr
    yield
    sys.stdout, sys.stderr = out, err


def test_the_environment_wins_over_a_mounted_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "TOKEN").write_text("from the file\r\n")
    assert secret("TOKEN") == "from the file"
    monkeypatch.setenv("TOKEN", "from the environment")
    assert secret("TOKEN") == "from the environment"


def test_a_secret_that_is_nowhere_is_missing_by_name(tmp_path: Path) -> None:
    with pytest.raises(errors.SecretMissing) as e:
        secret("TOKEN")
    assert e.value.details["secret"] == "TOKEN"
    (tmp_path / "DIRECTORY").mkdir()
    with pytest.raises(errors.SecretMissing, match="cannot be read"):
        secret("DIRECTORY")


@pytest.mark.parametrize("name", ["../passwd", "", "a b", "WTB_AUDIT_KEY", "RAY_AUTH_TOKEN"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="not the name of a secret"):
        secret(name)


def test_what_was_asked_for_is_blacked_out_in_errors_logs_and_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOKEN", VALUE)
    assert secret("TOKEN") == VALUE
    try:
        raise ValueError(f"401 for {VALUE}")
    except ValueError as e:
        fault = fault_of(e)
    assert VALUE not in fault.model_dump_json()
    assert fault.message == "401 for <secret TOKEN>"
    print("printed", VALUE)
    sys.stderr.write(f"written {VALUE}\n")
    telemetry.configure("INFO")
    record = logging.LogRecord("wtb_ray.x", logging.INFO, "f", 1, "logged %s", (VALUE,), None)
    [handler] = logging.getLogger("wtb_ray").handlers
    assert handler.format(record).endswith("logged <secret TOKEN>")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("printed <secret TOKEN>\n", "written <secret TOKEN>\n")


@pytest.mark.parametrize(
    "value", [VALUE, {"deep": [f"Bearer {VALUE}"]}, ("x", VALUE.encode())], ids=repr
)
def test_a_secret_in_state_is_refused_with_the_channels_name(
    value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", VALUE)
    secret("TOKEN")
    with pytest.raises(errors.UnstorableValue, match="'answer' holds the value of secret TOKEN"):
        channels.dump(JsonPlusSerializer(), "answer", value)
    if isinstance(value, str):
        checkpoint = {"channel_values": {"answer": value}, "channel_versions": {"answer": "1"}}
        with pytest.raises(errors.UnstorableValue, match="secret TOKEN"):
            channels.split(JsonPlusSerializer(), checkpoint, {"answer": "1"})  # type: ignore[arg-type]


def test_what_was_never_asked_for_costs_nothing_and_hides_nothing() -> None:
    assert secret_values.found_in(orjson.dumps({"x": VALUE})) is None
    assert secret_values.blacked_out(VALUE) == VALUE
