"""Serving an export loads neither TorchRec nor FBGEMM, and works where they cannot be imported."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

BLOCK = '''
import sys

class Blocked:
    """Stands for an environment that has none of these packages."""
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torchrec", "fbgemm_gpu") or name.startswith("skipwise.training"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
'''


@pytest.fixture(scope="module")
def without(tmp_path_factory) -> dict[str, str]:
    """An environment in which torchrec, fbgemm_gpu and skipwise.training cannot be imported."""
    folder = tmp_path_factory.mktemp("blocked")
    (folder / "sitecustomize.py").write_text(BLOCK)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path}


def skipwise(without: dict[str, str], *words: str) -> str:
    ended = subprocess.run([sys.executable, "-m", "skipwise", *words], env=without, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@contextmanager
def serving(export: Path, environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen, str]]:
    words = ["-m", "skipwise", "serve", "--port", "0", "--export", str(export)]
    process = subprocess.Popen([sys.executable, *words], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        said = process.stderr.readline()
        assert said.startswith("serving 300 tracks at http://127.0.0.1:"), said
        yield process, said.split()[-1]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_they_are_blocked(without: dict[str, str]):
    for name in ("torchrec", "fbgemm_gpu", "skipwise.training.config"):
        ended = subprocess.run([sys.executable, "-c", f"import {name}"], env=without, capture_output=True, text=True)
        assert "ModuleNotFoundError" in ended.stderr


def test_the_commands(without: dict[str, str], export: Path):
    assert "t_001" in skipwise(without, "recommend", "--export", str(export), "--session", "t_002", "-k", "299")
    assert len(skipwise(without, "similar", "--export", str(export), "--track", "t_002").splitlines()) == 11
    assert "--max-batch" in skipwise(without, "serve", "--help")


def test_python(without: dict[str, str], export: Path):
    code = f"import skipwise; print(len(skipwise.load({str(export)!r}).recommend(['t_001'], k=7)))"
    ended = subprocess.run([sys.executable, "-c", code], env=without, capture_output=True, text=True)
    assert ended.stdout == "7\n", ended.stderr


def test_the_service(without: dict[str, str], export: Path):
    with serving(export, without) as (_, url):
        answer = httpx.post(f"{url}/recommend", json={"session": [{"track": "t_001"}]})
        assert answer.status_code == 200 and len(answer.json()["tracks"]) == 10


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_the_service_does_not_map_them(export: Path):
    """Though they are installed here."""
    with serving(export, dict(os.environ)) as (process, url):
        assert httpx.get(f"{url}/health").status_code == 200
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        assert "torch" in maps
        assert "fbgemm_gpu" not in maps and "torchrec" not in maps
