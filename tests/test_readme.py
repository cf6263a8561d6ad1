"""Every command of README.md and of the pages that show how to begin, run in a copy of the repository."""

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
PAGES = {name: (ROOT / name).read_text() for name in ("README.md", "docs/first-steps.md", "docs/recipes.md")}
# What the pages train in minutes is run on fewer epochs here, and `make test` is this very run.
QUICK = " --train.epochs 1"


def blocks(page: str, heading: str, language: str = "bash") -> list[str]:
    """The code blocks of a language under a heading of a page."""
    section = PAGES[page].split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def commands(page: str, heading: str, number: int = 0) -> list[str]:
    """The lines of a bash block under a heading."""
    return blocks(page, heading)[number].strip().splitlines()


TWO, OWN_LOG = commands("README.md", "Two commands"), commands("README.md", "Your own log")
FIRST_STEPS = commands("docs/first-steps.md", "From a log to a run")


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """The files that git tracks or would track; commands run in the environment of these tests."""
    target = tmp_path_factory.mktemp("clone")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def run(line: str, clone: Path) -> str:
    """What a line of a page prints, standard error behind; it must succeed."""
    if " train " in line and "--train.epochs" not in line and "--config" not in line:
        line += QUICK
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("OMP_NUM_THREADS", None)
    done = subprocess.run(line, shell=True, cwd=clone, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def ensure(made: str, lines: list[str], clone: Path) -> None:
    """Runs `lines` where what they make is not there yet: a test may run alone."""
    if not (clone / made).exists():
        for line in lines:
            run(line, clone)


@pytest.mark.ranks
def test_the_readmes_own_log_and_python(clone: Path):
    for line in OWN_LOG[:-1]:
        run(line, clone)
    tracks = re.findall(r"^ *\d+ +(t_\d{4}) ", run(OWN_LOG[-1], clone), re.MULTILINE)
    assert len(tracks) == 10
    (clone / "first.py").write_text(blocks("README.md", "Python", "python")[0])
    said = run("python first.py", clone)
    assert all(track in said for track in tracks), said


@pytest.mark.ranks
def test_from_a_log_to_a_run(clone: Path):
    made = FIRST_STEPS[:3]
    assert all(line.replace("-j 1x2", "-j 1x4") in OWN_LOG for line in made)
    ensure("exports/mine", OWN_LOG[:-1], clone)
    said = {line: run(line, clone) for line in FIRST_STEPS[3:]}
    table = next(text for line, text in said.items() if " show " in line)
    for row in ("served", "full", "paper"):
        assert re.search(rf"{row} +test +0\.\d{{4}}", table)


@pytest.mark.ranks
def test_from_a_run_to_recommendations(clone: Path):
    ensure("exports/mine", OWN_LOG[:-1], clone)
    export, *lines, serve = commands("docs/first-steps.md", "From a run to recommendations")
    assert export in OWN_LOG
    said = {line.split()[1]: run(line, clone) for line in lines}
    assert "chosen" in said["index"]
    assert re.search(r"float32 +test +0\.\d{4}", said["evaluate"])
    for name in ("recommend", "similar"):
        assert len(re.findall(r"^ *\d+ +t_\d{4} ", said[name], re.MULTILINE)) == 10, said[name]
    assert re.search(r"^ *1 +t_\d{4} .*\bQuiet\b", said["find"], re.MULTILINE), said["find"]
    assert "data:image/svg" in (clone / "reports/mine.html").read_text()
    answers = answers_of(serve, clone, ["/health", "/report", "/"])
    assert json.loads(answers["/health"])["status"] == "ok"
    assert "data:image/svg" in answers["/report"] and "<title>" in answers["/"]


def answers_of(line: str, clone: Path, paths: list[str]) -> dict[str, str]:
    """What a service that `line` starts answers at each path; it is on a free port, and is stopped by SIGTERM."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", *line.split(), "--port", str(port)]
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
    ensure("runs/mine", OWN_LOG[:3], clone)
    prepare, line = commands("docs/first-steps.md", "When it is stopped")
    run(prepare, clone)
    assert re.search(r"([\d,]+) of the \1 tracks have rows there", run(line, clone))
    assert (clone / "runs/next/metrics.json").exists()


@pytest.mark.ranks
def test_a_table_and_a_sweep_of_it(clone: Path):
    (quick,) = blocks("docs/first-steps.md", "Do skips help, on your data?", "yaml")
    (clone / "quick.yaml").write_text(quick)
    ensure("data/mine", OWN_LOG[:2], clone)
    for line in commands("docs/first-steps.md", "Do skips help, on your data?"):
        run(line, clone)
    assert "first-order Markov chain" in (clone / "tables/mine/table.md").read_text()
    assert "more epochs may change all" in (clone / "audits/after/runs.md").read_text()
    assert (clone / "sweeps/mine/best.yaml").exists()


def test_recipes_in_yaml_and_in_python(clone: Path):
    ensure("data/mine", OWN_LOG[:2], clone)
    (small,) = blocks("docs/recipes.md", "Options and a YAML file", "yaml")
    (sharp,) = blocks("docs/recipes.md", "A Python recipe", "python")
    (clone / "small.yaml").write_text(small.replace("epochs: 2", "epochs: 1"))
    (clone / "my_recipe.py").write_text(sharp.replace("epochs=2", "epochs=1"))
    for heading in ("Options and a YAML file", "A Python recipe"):
        for line in commands("docs/recipes.md", heading):
            said = run(line, clone)
    assert re.search(r"full +test +0\.\d{4}", said)
    config = (clone / "runs/sharp/config.yaml").read_text()
    assert re.search(r"temperature: 0\.1\b", config) and re.search(r"\bdim: 64\b", config)
    assert re.search(r"positions: relative", (clone / "runs/small-relative/config.yaml").read_text())


def test_tables_of_other_schemas(clone: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    events = [(f"u{user}", 1000 * user + 60 * play, f"t{(user + play) % 9}") for user in range(5) for play in range(6)]
    columns = dict(zip(("user", "timestamp", "track"), map(list, zip(*events, strict=True)), strict=True))
    pq.write_table(pa.table(columns), clone / "events.parquet")
    (clone / "pairs.txt").write_text("".join(f"{user} {item}\n" for user in range(5) for item in range(6)))
    for line in commands("docs/first-steps.md", "From a log to a run", 1):
        run(line, clone)
    for name, sessions in (("events", 5), ("pairs", 5)):
        assert f'"sessions": {sessions}' in (clone / f"data/{name}/manifest.json").read_text()


@pytest.mark.ranks
def test_make_train(clone: Path):
    assert TWO == ["make train", "make test"]
    venv = Path(sys.executable).parents[1]
    as_it_is = " ".join(f"--assume-old {venv}/.setup-{device}" for device in ("cpu", "gpu"))  # not of the clone
    line = f"make {as_it_is} train VENV={venv} TRAIN_ARGS='--train.epochs 1'"
    done = subprocess.run(line, shell=True, cwd=clone, capture_output=True, text=True, timeout=290)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"full +test +0\.\d{4}", done.stdout.split("Exporting")[-1])


def test_a_benchmark_of_it(clone: Path):
    (line,) = commands("docs/first-steps.md", "How fast is it here?")
    said = run(line, clone)
    assert re.search(r"Ours takes \d+\.\d\d times plain's", said)
    assert list((clone / "benchmarks/mine").glob("*-step-*.json"))


def test_ci_runs_the_readmes_test_command():
    called = re.findall(r"^exec (make \w+)", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert called == [TWO[1]]


def test_every_file_the_readme_links_to_exists():
    for target in re.findall(r"\]\((?!http)([^)#]+)", PAGES["README.md"]):
        assert (ROOT / target).exists(), target


def test_what_the_pages_commands_write_is_ignored_by_git():
    written = ["data/x", "runs/x", "exports/x", "reports/x", "tables/x", "sweeps/x", "benchmarks/mine/x"]
    for name in (*written, "quick.yaml", "small.yaml", "my_recipe.py"):
        assert subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT).returncode == 0, name
