"""The whole page: the figures of `evaluate`, one file, the same bytes; what is missing said, what is broken refused."""

import base64
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skipwise.common.distributed import process_group
from skipwise.common.errors import UserError
from skipwise.components.evaluate import EvaluateRunConfig, evaluate
from skipwise.components.recipes import RECIPES
from skipwise.datapipes.manifest import SESSIONS, Manifest
from skipwise.studies.baselines.measuring import BASELINES, measure_baseline
from skipwise.studies.run_report.report_page import write_report
from skipwise.training.config import PROTOCOLS
from skipwise.training.evaluation.metrics import METRICS
from skipwise.training.loop import train
from skipwise.training.run.directory import RunDirectory
from tests.conftest import random_sessions, write_dataset
from tests.support.browsing import chromium, faults_by_axe
from tests.training.test_train import TRACKS, config_of

CONTEXTS = ["radio", "<b>user_collection</b>", "$x$"]


def add_context(data: Path) -> None:
    """A context type a play; session number N's last one is that of N modulo 3."""
    number = 0
    for part in sorted((data / SESSIONS).iterdir()):
        table = pq.read_table(part)
        lengths = [len(one) for one in table["tracks"].to_pylist()]
        words = [["radio"] * (length - 1) + [CONTEXTS[(number + row) % 3]] for row, length in enumerate(lengths)]
        number += len(lengths)
        pq.write_table(table.append_column("context_type", pa.array(words)), part, row_group_size=7)
    Manifest.read(data).model_copy(update={"context_columns": ["context_type"]}).write(data)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder of `data` and the runs `plain` and `skips`."""
    folder = tmp_path_factory.mktemp("report")
    write_dataset(folder / "data", random_sessions(120, TRACKS), TRACKS)
    add_context(folder / "data")
    with process_group():
        for name, recipe, keep in (("plain", "unidir", 0.0), ("skips", "unidir-skip-track", 0.5)):
            config = config_of(folder / "data", folder / name, recipe, epochs=2)
            train(replace(config, loss=replace(config.loss, keep=keep)), recipe)
    return folder


@pytest.fixture(scope="module")
def page(trained: Path) -> str:
    """The page on `skips`."""
    return write(trained / "page.html", trained / "skips")


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A run of its own to break."""
    return Path(shutil.copytree(trained / "skips", tmp_path / "run"))


def write(output: Path, *runs: Path, overwrite: bool = False) -> str:
    write_report(tuple(map(str, runs)), output, overwrite, lambda name: RECIPES[name]() if name in RECIPES else None)
    return output.read_text()


class Seen(HTMLParser):
    """Tags with their attributes, and the cells of every table row."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "small":
            self.rows[-1][-1] += "|"

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


def test_the_figures_are_those_of_evaluate(trained: Path, tmp_path: Path):
    text = write(tmp_path / "two.html", trained / "plain", trained / "skips")
    assert text.count("120 targets of 120 sessions") == len(PROTOCOLS), "once a table"
    rows = Seen(text).rows
    metrics = [json.loads((trained / name / "metrics.json").read_text()) for name in ("plain", "skips")]
    wanted = ("hr@1", "hr@5", "hr@10", "hr@20", "ndcg@10", "mrr", "skipped_hr@10")
    for protocol in PROTOCOLS:
        tests = [values[protocol]["test"] for values in metrics]
        first = next(place for place, row in enumerate(rows) if row[0] == protocol)
        of_protocol = rows[first:]
        for label, values in zip("AB", tests, strict=True):
            row = next(row for row in of_protocol if row[0] == f"run {label}")
            assert [cell.partition("|")[0] for cell in row[1:]] == [f"{values[name]:.4f}" for name in wanted[:-1]]
            row = next(row for row in rows if row[0].startswith(f"{protocol}, run {label}|"))
            assert row[1].startswith(f"{values['skipped_percentile_rank']:.2f}|")
            assert row[4].startswith(f"{values['skipped_hr@10']:.4f}|")
        at = next(row for row in rows if row[:2] == ["test", "served"]).index(protocol)
        for name, label in zip(wanted, [*map(str.upper, METRICS), "HR@10 of skipped"], strict=True):
            cell = next(row for row in rows if row[0] == label and len(row) == 4)[at]
            found = float(cell.partition("|")[0].rstrip(" *"))
            assert found == pytest.approx(tests[1][name] - tests[0][name], abs=6e-5)
    assert ["train.epochs", "2", "2", "200"] in rows
    assert ["loss.alpha", "0.0", "0.5", "0.0 / 0.5"] in rows
    paths = [row[0] for row in rows if row[:1] in (["train.epochs"], ["train.seed"])]
    assert sorted(paths) == ["train.epochs", "train.seed"], "each field stands once"


def test_one_file_that_asks_for_no_other(page: str, trained: Path):
    tags = Seen(page).tags
    assert "//" not in re.sub(r"base64,[A-Za-z0-9+/=]*", "", page).replace(str(trained), "")
    assert not {"script", "link", "iframe"} & {tag for tag, _ in tags}
    images = [attributes for tag, attributes in tags if tag == "img"]
    # Two curves, five breakdowns and the skips under three protocols, reliability, the map, throughput.
    assert len(images) == 2 + 3 * 5 + 3 + 1 + 1 + 1
    for image in images:
        kind, content = image["src"].split(",")
        assert kind == "data:image/svg+xml;base64" and len(image["alt"]) > 20
        svg = base64.b64decode(content)
        assert b"<svg" in svg and not re.search(rb'href="(?!#|data:)', svg) and b"<script" not in svg
    assert "&lt;b&gt;user_collection&lt;/b&gt;" in page and "<b>user" not in page
    anchors = {attributes["id"] for tag, attributes in tags if tag == "h2"}
    assert anchors == {attributes["href"][1:] for tag, attributes in tags if tag == "a"} and len(anchors) == 10


def test_how_skips_are_foreseen_is_that_of_evaluate(trained: Path, tmp_path: Path):
    page = write(tmp_path / "two.html", trained / "plain", trained / "skips")
    metrics = json.loads((trained / "skips" / "metrics.json").read_text())["full"]["test"]
    for label, name in (("next-skip AUC", "auc"), ("accuracy", "accuracy"), ("ECE", "ece")):
        row = next(row for row in Seen(page).rows if row[:1] == [label])
        assert (
            row[1] == "none" and row[2].startswith(f"{metrics[f'next_skip_{name}']:.4f}|") and row[3].startswith("none")
        )
    assert "Run A: its records have no P(kept): it has no keep head (--loss.keep)." in page
    assert page.count("its records have no pairs: each session has one target.") == 2
    row = next(
        row for row in Seen(write(tmp_path / "same.html", *[trained / "skips"] * 2)).rows if row[:1] == ["accuracy"]
    )
    assert row[3].startswith("+0.0000|+0.0000 to +0.0000")


def test_context_types_by_hand(page: str, trained: Path):
    ranks = pq.read_table(trained / "skips" / "ranks" / "full-test").sort_by("session")
    place, ties = ranks["rank"].to_numpy(), ranks["ties"].to_numpy()
    hits = np.clip((11 - place) / (ties + 1), 0, 1)
    alt = next(
        attributes["alt"]
        for tag, attributes in Seen(page).tags
        if tag == "img" and attributes["alt"].startswith("HR@10, full, by context")
    )
    for number, name in ((0, "radio"), (2, "$x$")):
        chosen = np.arange(120) % 3 == number
        assert f"{name}  (40): {hits[chosen].mean():.4f}" in alt


def test_the_same_run_gives_the_same_bytes(page: str, trained: Path, tmp_path: Path):
    output = trained / "page.html"
    with pytest.raises(UserError, match="page.html exists: .*--overwrite"):
        write(output, trained / "skips")
    assert output.read_text() == page
    before = output.stat().st_ino
    assert write(output, trained / "skips", overwrite=True) == page and output.stat().st_ino != before
    (tmp_path / "mine.html").write_text("<!DOCTYPE html><p>mine")
    with pytest.raises(UserError, match="mine.html exists and is not what this command writes"):
        write(tmp_path / "mine.html", trained / "skips", overwrite=True)


def test_what_is_missing_is_said(copy: Path, tmp_path: Path):
    """A run that was stopped before its first validation, whose data are gone and whose recipe has another name.

    Its ranks are those by `paper`, and those by `uniform` of an older version.
    """
    for name in ("metrics.json", "metrics.jsonl", "checkpoints/best"):
        (copy / name).unlink()
    for kept in ("test", "validation"):
        shutil.rmtree(copy / "ranks" / f"full-{kept}")
        (copy / "ranks" / f"served-{kept}").rename(copy / "ranks" / f"uniform-{kept}")
    record = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(record | {"recipe": "<i>mine"}))
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(re.sub(r"path: .*", "path: /nowhere", config))
    text = write(tmp_path / "page.html", copy)
    for sentence in (
        "Run A has not finished training",
        "there is no recipe '&lt;i&gt;mine' to compare its config with",
        f"Run A: the test has not been measured by served and full; evaluate --run {copy} --protocol served full does",
        "Run A: metrics.jsonl has no line of training steps.",
        "Run A: no epoch has been validated.",
        "Run A: the data are not available: /nowhere/manifest.json cannot be read",
        "Run A: there are no best weights yet.",
    ):
        assert text.count(sentence) == 1, sentence
    assert "uniform-" not in text and 'id="curves"' not in text and 'id="map"' not in text
    assert len([tag for tag, _ in Seen(text).tags if tag == "img"]) == 3, "position, skips, P(kept)"
    shutil.rmtree(copy / "ranks")
    bare = write(tmp_path / "bare.html", copy)
    assert f"Run A: the test has not been measured; evaluate --run {copy} does it." in bare
    assert re.findall('<h2 id="(.+?)"', bare) == ["run", "config", "missing"], "no section is empty"


@pytest.mark.parametrize("where", ["by evaluate", "by table"])
def test_baselines_stand_beside_the_runs(where: str, page: str, copy: Path, tmp_path: Path, trained: Path):
    """Their figures are those of `measure_baseline`; of runs of the same data and test each stands once."""
    again = "evaluate --run {} --baselines does it."
    assert f"Run A: no baselines have been measured; {again.format(trained / 'skips')}" in page
    run = RunDirectory.open(str(copy))
    if where == "by evaluate":
        evaluate(EvaluateRunConfig(str(copy), protocol=("served",), baselines=True))
        folders = {one.label: copy / "baselines" / one.name for one in BASELINES}
    else:
        folders = {one.label: tmp_path / one.name for one in BASELINES[:1]}
        with process_group():
            measure_baseline(BASELINES[0], run.config, run.open_store(), *folders.values())
    other = shutil.copytree(copy, tmp_path / "other")
    text = write(tmp_path / "page.html", copy, other)
    rows = Seen(text).rows
    for label, folder in folders.items():
        metrics = json.loads((folder / "metrics.json").read_text())
        found = [row[1:] for row in rows if row[0] == label]
        assert [[cell.partition("|")[0] for cell in row] for row in found] == [
            [f"{metrics[protocol]['test'][name]:.4f}" for name in METRICS] for protocol in PROTOCOLS
        ]
    assert "no baselines" not in text


def test_axe_finds_nothing(trained: Path, tmp_path: Path):
    file = tmp_path / "two.html"
    write(file, trained / "plain", trained / "skips")
    with chromium() as browser:
        for width, scheme in ((390, "light"), (1280, "dark")):
            page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
            page.goto(file.as_uri())
            page.locator("details").evaluate("details => details.open = true")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert faults_by_axe(page) == []


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def change_train(run: Path, **values: object) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(metrics | {"train": metrics["train"] | values}))


def change_ranks(run: Path, column: str, value: int) -> None:
    part = run / "ranks" / "full-test" / "part-00000.parquet"
    table = pq.read_table(part)
    place = table.schema.get_field_index(column)
    changed = pa.array([value] * len(table), table.schema.field(place).type)
    pq.write_table(table.set_column(place, table.schema.field(place), changed), part)


def of_older_version(run: Path) -> None:
    part = run / "ranks" / "full-test" / "part-00000.parquet"
    pq.write_table(pq.read_table(part).drop_columns(["ties", "repeated"]), part)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda run: (run / "run.json").unlink(), "run.json cannot be read"),
        (lambda run: cut(run / "ranks" / "full-test" / "part-00000.parquet"), "full-test cannot be read"),
        (lambda run: change_ranks(run, "target", TRACKS), "full-test has 'target' outside of the run's data"),
        (lambda run: change_ranks(run, "session", 120), "full-test has 'session' outside"),
        (lambda run: change_ranks(run, "rank", -1), "full-test has 'rank' outside"),
        (lambda run: change_ranks(run, "ties", -1), "full-test has 'ties' outside"),
        (
            lambda run: of_older_version(run),
            "full-test cannot be read .*lacks repeated, ties.* again with evaluate --run .*/run",
        ),
        (lambda run: change_train(run, seconds="long"), "'train' has no number at 'seconds'"),
        (lambda run: change_train(run, epochs=float("nan")), "'train' has no number at 'epochs'"),
        (lambda run: (run / "metrics.jsonl").write_text("{}\n{}\n"), "metrics.jsonl, line 1: .* is not a line"),
        (lambda run: (run / "checkpoints" / "best").write_text("elsewhere"), "best names no checkpoint beside it"),
        (lambda run: cut(next((run / "checkpoints").glob("*/part-*"))), "expected a whole checkpoint"),
        (lambda run: (run / "metrics.json").write_text("[]"), "metrics.json is not a JSON object"),
    ],
)
def test_a_broken_run_is_refused(damage: Callable[[Path], object], sentence: str, copy: Path, tmp_path: Path):
    for best in (copy / "checkpoints").glob("train-*"):
        if best.name != (copy / "checkpoints" / "best").read_text().strip():
            shutil.rmtree(best)
    damage(copy)
    with pytest.raises(UserError, match=sentence):
        write(tmp_path / "page.html", copy)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
