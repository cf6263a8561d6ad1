"""Every command of the README, run in a copy of the repository as a new user would."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
# `make train` trains the sample in minutes; here it is run on fewer epochs, and `make test` is this very run.
QUICK = {"train": ["--train.epochs", "1"]}


def commands(heading: str, number: int = 0) -> list[str]:
    """The lines of a bash block under a heading."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```bash\n(.*?)```", section, re.DOTALL)[number].strip().splitlines()


TWO, OWN_LOG = commands("Two commands"), commands("Your own log")


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """The files that git tracks or would track, and the environment these tests run in."""
    target = tmp_path_factory.mktemp("clone")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def run(line: str, clone: Path) -> str:
    words = line.split()
    if words[0] == "torchx" and "train" in words and QUICK["train"][0] not in words:
        line += " " + " ".join(QUICK["train"])
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("OMP_NUM_THREADS", None)
    done = subprocess.run(line, shell=True, cwd=clone, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.mark.ranks
def test_from_a_raw_log_to_embeddings(clone: Path):
    said = {line: run(line, clone) for line in OWN_LOG}
    table = next(text for line, text in said.items() if " show " in line)
    for row in ("uniform", "full"):
        assert re.search(rf"{row} +test +0\.\d{{4}}", table)
    assert (clone / "exports/mine/manifest.json").exists()
    assert (clone / "runs/mine/metrics.json").exists()


@pytest.mark.ranks
def test_from_a_run_to_recommendations(clone: Path):
    if not (clone / "exports/mine").exists():
        for line in OWN_LOG[:5]:
            run(line, clone)
    install, *lines, serve = commands("Recommend")
    assert install == "make extras" and re.search(r"^extras:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    said = {line.split()[3]: run(line, clone) for line in lines}
    assert "chosen" in said["index"]
    assert re.search(r"float32 +test +0\.\d{4}", said["evaluate"])
    for name in ("recommend", "similar"):
        assert len(re.findall(r"^ *\d+ +t_\d{4} ", said[name], re.MULTILINE)) == 10, said[name]
    assert "data:image/svg" in (clone / "reports/mine.html").read_text()
    answers = answers_of(serve, clone, ["/health", "/report", "/"])
    assert json.loads(answers["/health"])["status"] == "ok"
    assert "data:image/svg" in answers["/report"] and "<title>" in answers["/"]


def answers_of(line: str, clone: Path, paths: list[str]) -> dict[str, str]:
    """What a service that `line` starts answers at each path; it is on a free port, and is stopped by SIGTERM."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, *line.split()[1:], "--port", str(port)]
    with subprocess.Popen(words, cwd=clone, stderr=subprocess.PIPE, text=True) as service:
        answers = {}
        until = time.monotonic() + 60
        while len(answers) < len(paths) and time.monotonic() < until and service.poll() is None:
            try:
                for path in paths:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                        answers[path] = answer.read().decode()
            except urllib.error.URLError:
                time.sleep(0.2)
        service.terminate()
        assert service.wait(20) == 0 and len(answers) == len(paths), service.stderr.read()
    return answers


@pytest.mark.ranks
def test_a_run_that_starts_from_another(clone: Path):
    if not (clone / "runs/mine").exists():
        for line in OWN_LOG[:3]:
            run(line, clone)
    (line,) = commands("When it is stopped")
    assert re.search(r"([\d,]+) of the \1 tracks have rows there", run(line, clone))
    assert (clone / "runs/next/metrics.json").exists()


@pytest.mark.ranks
def test_a_table_and_a_sweep_of_it(clone: Path):
    (quick,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (clone / "quick.yaml").write_text(quick)
    if not (clone / "data/mine").exists():
        for line in OWN_LOG[:2]:
            run(line, clone)
    for line in commands("Do skips help, on your data?"):
        run(line, clone)
    assert "first-order Markov chain" in (clone / "tables/mine/table.md").read_text()
    assert (clone / "sweeps/mine/best.yaml").exists()


def test_tables_of_other_schemas(clone: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    events = [(f"u{user}", 1000 * user + 60 * play, f"t{(user + play) % 9}") for user in range(5) for play in range(6)]
    columns = dict(zip(("user", "timestamp", "track"), map(list, zip(*events, strict=True)), strict=True))
    pq.write_table(pa.table(columns), clone / "events.parquet")
    (clone / "pairs.txt").write_text("".join(f"{user} {item}\n" for user in range(5) for item in range(6)))
    for line in commands("Your own log", 1):
        run(line, clone)
    for name, sessions in (("events", 5), ("pairs", 5)):
        assert f'"sessions": {sessions}' in (clone / f"data/{name}/manifest.json").read_text()


@pytest.mark.ranks
def test_make_train(clone: Path):
    environment = os.environ | {"VENV": str(Path(sys.executable).parents[1]), "TRAIN_ARGS": "--train.epochs 1"}
    assert TWO == ["make train", "make test"]
    done = subprocess.run(
        ["make", "train", f"VENV={environment['VENV']}"],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        timeout=290,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"full +test +0\.\d{4}", done.stdout.split("Exporting")[-1])


def test_a_benchmark_of_it(clone: Path):
    (line,) = commands("What to expect on your hardware")
    said = run(line, clone)
    assert re.search(r"Ours takes \d+\.\d\d times plain's", said)
    assert list((clone / "benchmarks/mine").glob("*-step-*.json"))


def test_ci_runs_the_readmes_test_command():
    called = re.findall(r"^exec (make \w+)", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert called == [TWO[1]]


def test_every_file_the_readme_links_to_exists():
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / target).exists(), target
