"""Small wheels that tests make themselves, and a uv that looks nowhere else."""

import base64
import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path

WHEEL = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    *,
    requires: Sequence[str] = (),
    module: str | None = None,
    body: str = "",
    ballast: int = 0,
) -> Path:
    """A wheel of one module that has its `VERSION`."""
    plain = name.replace("-", "_")
    info = f"{plain}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {one}\n" for one in requires)
    files = {
        f"{module or plain}.py": f"VERSION = {version!r}\n{body}".encode(),
        f"{info}/METADATA": (
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}".encode()
        ),
        f"{info}/WHEEL": WHEEL.encode(),
    }
    if ballast:
        files[f"{plain}.dat"] = bytes(ballast)
    record = "".join(f"{path},{hash_of(data)},{len(data)}\n" for path, data in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{plain}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return wheel


def hash_of(data: bytes) -> str:
    """As a wheel's RECORD has it."""
    digest = hashlib.sha256(data).digest()
    return f"sha256={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def no_index(folder: Path) -> dict[str, str]:
    """Environment variables with which uv asks no index and keeps its cache in the folder."""
    config = folder / "uv.toml"
    config.write_text("no-index = true\n")
    return {"UV_CONFIG_FILE": str(config), "UV_CACHE_DIR": str(folder / "uv-cache")}
