"""What an environment's digests stand for, what is protected, and how requirements are read."""

from pathlib import Path

import pytest

from wtb_ray import bases, environments, errors, installer, pinning
from wtb_ray.bases import Protected
from wtb_ray.environment import EnvSpec
from wtb_ray.installer import Ended

BASE = environments.base()
OWN = {"pydantic": Protected("2.12.0", "wtb-ray 0.1.0 requires pydantic>=2.12")}


def venv(spec: EnvSpec, **wheels: str) -> str:
    return environments.venv_digest(spec, BASE, wheels)


def test_the_base_is_what_is_installed_here() -> None:
    assert BASE.packages["ray"] == BASE.ray
    assert BASE.packages["wtb-ray"] == "0.1.0"
    assert environments.base() is BASE
    moved = BASE.model_copy(update={"executable": "/elsewhere", "site": ("/elsewhere",)})
    assert moved.digest == BASE.digest


def test_what_the_bench_stands_on_is_protected() -> None:
    own = environments.protected()
    assert {"ray", "wtb-ray", "langgraph", "pydantic", "grpcio", "protobuf", "fastapi"} <= set(own)
    assert {"typing-extensions", "starlette", "aiohttp"} <= set(own), "closures and extras"
    assert not {"scikit-learn", "joblib", "bm25s", "pytest", "mypy"} & set(own)
    assert all(BASE.packages[name] == one.version for name, one in own.items())
    assert own["pydantic"].needed_by.startswith("wtb-ray 0.1.0 requires pydantic")


def test_what_is_installed_depends_on_packages_wheels_and_base() -> None:
    one = venv(EnvSpec(packages=("a",)))
    assert one == venv(EnvSpec(packages=("a",), env_vars={"X": "1"}, secrets=("KEY",)))
    others = [
        venv(EnvSpec(packages=("b",))),
        venv(EnvSpec(requirements="a")),
        venv(EnvSpec(lock="a==1")),
        venv(EnvSpec(packages=("a",)), wheel="0"),
        venv(EnvSpec(packages=("a",)), wheel="1"),
        venv(EnvSpec()),
        environments.venv_digest(
            EnvSpec(packages=("a",)), BASE.model_copy(update={"digest": "other"}), {}
        ),
    ]
    assert len({one, *others}) == 8


def test_an_environment_is_also_its_variables_and_names_of_secrets() -> None:
    specs = [
        EnvSpec(packages=("a",)),
        EnvSpec(packages=("a",), env_vars={"X": "1"}),
        EnvSpec(packages=("a",), env_vars={"X": "2"}),
        EnvSpec(packages=("a",), secrets=("X",)),
    ]
    assert len({environments.environment_digest(spec, venv(spec)) for spec in specs}) == 4
    one, two = EnvSpec(secrets=("A", "B")), EnvSpec(secrets=("B", "A"))
    assert environments.environment_digest(one, "v") == environments.environment_digest(two, "v")


def test_only_the_python_of_the_cluster_will_do() -> None:
    environments.check_python(EnvSpec(), BASE)
    environments.check_python(EnvSpec(python_version=BASE.python.rpartition(".")[0]), BASE)
    with pytest.raises(errors.PythonMismatch, match=f"2.7, the cluster has {BASE.python}"):
        environments.check_python(EnvSpec(python_version="2.7"), BASE)


def test_requirements_are_read_with_comments_hashes_markers_and_paths() -> None:
    text = (
        "# a comment\n\nalpha==1.0 \\\n  --hash=sha256:aa \\\n  --hash=sha256:bb  # why\n"
        "beta[x]>=2 ; python_version < '3'\n./w/gamma-1.0-py3-none-any.whl\n"
        "delta @ ./w/delta-1.0-py3-none-any.whl\nepsilon @ https://host/e-1.zip#sha256=0\n"
    )
    alpha, beta, gamma, delta, epsilon = pinning.parse(text, "requirements")
    assert (alpha.name, alpha.version, alpha.hashes) == ("alpha", "1.0", ("sha256:aa", "sha256:bb"))
    assert (beta.here, beta.version) == (False, None)
    assert (gamma.name, gamma.path) == ("gamma", "w/gamma-1.0-py3-none-any.whl")
    assert (delta.name, delta.path) == ("delta", "w/delta-1.0-py3-none-any.whl")
    assert epsilon.requirement.url == "https://host/e-1.zip#sha256=0"
    assert gamma.written(Path("/p")) == "gamma @ file:///p/w/gamma-1.0-py3-none-any.whl"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("-r other.txt", "option"),
        ("--index-url https://host/simple", "option"),
        ("-e .", "option"),
        ("what is this", "no_requirement"),
        ("./w/nonsense.whl", "no_requirement"),
        ("../w/alpha-1.0-py3-none-any.whl", "outside"),
        ("/w/alpha-1.0-py3-none-any.whl", "outside"),
        ("alpha @ file:///w/alpha-1.0-py3-none-any.whl", "outside"),
        ("alpha @ ../alpha-1.0-py3-none-any.whl", "outside"),
    ],
)
def test_what_is_no_requirement_is_refused_by_its_line(line: str, reason: str) -> None:
    with pytest.raises(errors.EnvironmentFailed) as e:
        list(pinning.parse(f"alpha\n{line}\n", "requirements"))
    assert e.value.details["line"] == line
    assert e.value.details["reason"] == reason
    assert e.value.details["field"] == "environment.requirements"


@pytest.mark.parametrize(
    ("lock", "reason"),
    [
        ("alpha", "not_pinned"),
        ("alpha==1.*", "not_pinned"),
        ("alpha>=1,<=1", "not_pinned"),
        ("alpha @ git+https://host/alpha@main", "not_pinned"),
        ("alpha==1 --hash=sha256:aa\nbeta==1", "hash_missing"),
    ],
)
def test_a_lock_is_pinned_line_by_line(lock: str, reason: str) -> None:
    with pytest.raises(errors.EnvironmentFailed) as e:
        pinning.given(EnvSpec(lock=lock))
    assert e.value.details["reason"] == reason


def test_only_what_the_base_lacks_or_has_otherwise_is_installed() -> None:
    lines = pinning.given(
        EnvSpec(lock="alpha==1.0\nbeta==2\nGamma==3.0\ndelta==4 ; python_version < '3'")
    )
    pins = pinning.pins_of(lines, {"alpha": "1", "beta": "1", "other": "1"}, False)
    assert pins.lines == ("beta==2", "Gamma==3.0")
    assert pins.packages == {"alpha": "1.0", "beta": "2", "gamma": "3.0"}


def test_links_do_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "out").symlink_to(tmp_path)
    spec = EnvSpec(packages=("alpha",), find_links=("out",))
    with pytest.raises(errors.EnvironmentFailed) as e:
        pinning.wheels(spec, tmp_path / "project")
    assert e.value.details["reason"] == "outside"


@pytest.mark.parametrize("asked", ["pydantic<2", "pydantic==1.0", "Pydantic!=2.12.0"])
def test_a_requirement_that_excludes_what_the_bench_has_is_a_conflict(asked: str) -> None:
    with pytest.raises(errors.EnvironmentConflict) as e:
        pinning.conflicts(pinning.given(EnvSpec(packages=(asked,))), OWN)
    assert e.value.details["required"] == asked
    assert e.value.details["bench"] == "pydantic==2.12.0"
    pinning.conflicts(pinning.given(EnvSpec(packages=("pydantic>=2", "alpha"))), OWN)
    pinning.conflicts(pinning.given(EnvSpec(requirements="pydantic<2; python_version<'3'")), OWN)


@pytest.mark.parametrize(
    ("words", "required", "by"),
    [
        (
            "Because needy==1.0 depends on pydantic<2 and pydantic==2.12.0,",
            "pydantic<2",
            "needy==1.0",
        ),
        ("all versions of needy depend on pydantic>=1,<2 and you", "pydantic>=1,<2", "needy"),
        ("needy depends on one of:\n    pydantic<1\n    pydantic>3\nso", "pydantic<1", "needy"),
        ("only pydantic>=3 is available.", "pydantic>=3", "the environment"),
    ],
)
def test_uvs_words_about_what_the_bench_has_are_a_conflict(
    words: str, required: str, by: str
) -> None:
    error = installer.failed(Ended(1, "", f"error: No solution found\n  cause: {words}"))
    assert isinstance(error, errors.EnvironmentFailed)
    found = pinning.explained(error, OWN)
    assert isinstance(found, errors.EnvironmentConflict)
    assert (found.details["required"], found.details["required_by"]) == (required, by)
    assert found.details["uv"] == error.details["uv"]


@pytest.mark.parametrize(
    ("words", "kind", "reason"),
    [
        ("No space left on device (os error 28)", errors.StorageFull, "full"),
        (
            "Failed to fetch: `https://host/simple/a/`\n cause: dns error",
            errors.PackageIndexUnavailable,
            "no_network",
        ),
        ("HTTP status server error (503)", errors.PackageIndexUnavailable, "no_network"),
        ("HTTP status client error (403 Forbidden)", errors.EnvironmentFailed, "refused_by_index"),
        ("Failed to build `a==1`", errors.EnvironmentFailed, "build_failed"),
        ("something new", errors.EnvironmentFailed, "uv"),
    ],
)
def test_uvs_words_have_a_meaning(words: str, kind: type[errors.WTBError], reason: str) -> None:
    error = installer.failed(Ended(1, "", f"Using Python 3.11\nerror: {words}"))
    assert type(error) is kind
    assert error.details["reason"] == reason
    assert error.details["uv"].startswith("error: ")
    pinned = pinning.explained(error, OWN) if isinstance(error, errors.EnvironmentFailed) else error
    assert pinned is error


def test_uv_that_was_killed_may_work_again() -> None:
    assert type(installer.failed(Ended(-9, "", ""))) is errors.Unavailable


def test_metadata_of_the_base_is_to_be_had() -> None:
    assert "Name: pydantic" in bases.metadata(BASE, "pydantic")
