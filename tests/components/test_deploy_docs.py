"""The recipes of docs/deploy.md: commands whose options exist, places that agree, objects that fit their schemas."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/deploy.md").read_text()


def documents(heading: str) -> list[Any]:
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [*yaml.safe_load_all(re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)[0])]


COMPOSE, KUBERNETES = documents("Compose: train, serve, and an object store")[0], documents("Serving on Kubernetes")
(CONTAINER,) = KUBERNETES[0]["spec"]["template"]["spec"]["containers"]
COMMANDS = {
    name: service["command"].split() for name, service in COMPOSE["services"].items() if "command" in service
} | {"kubernetes": CONTAINER["args"]}


@cache
def said_by_help(command: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "skipwise", command, "--help"], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_options_exist(name: str):
    words = COMMANDS[name]
    command, *options = words[words.index("skipwise") + 1 :]
    for option in filter(lambda word: word.startswith("--"), options):
        assert re.search(rf"{re.escape(option)}\b", said_by_help(command)), option


def test_services_agree_on_places():
    """What one writes the next one reads."""
    words = {name: dict(zip(command, command[1:], strict=False)) for name, command in COMMANDS.items()}
    assert words["prepare"]["--output"] == words["train"]["--data.path"]
    assert words["train"]["--run-dir"] == words["export"]["--run"]
    assert words["export"]["--output"] == words["serve"]["--export"] == words["kubernetes"]["--export"]
    service = KUBERNETES[1]
    assert service["spec"]["selector"] == KUBERNETES[0]["spec"]["template"]["metadata"]["labels"]
    assert {service["metadata"]["name"], "skipwise.tracks.svc.cluster.local"} <= set(CONTAINER["args"])
    assert {probe["httpGet"]["path"] for name, probe in CONTAINER.items() if "Probe" in name} == {"/health", "/ready"}


INDEXED = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/data.md").read_text(), re.DOTALL)[0])


def test_shards_of_an_indexed_job_are_all_of_one_log():
    (container,) = INDEXED["spec"]["template"]["spec"]["containers"]
    words = container["command"]
    assert words[:2] == ["skipwise", "prepare"] and INDEXED["spec"]["completions"] == 64
    assert words[-4:] == ["--step", "read", "--shard", "$(JOB_COMPLETION_INDEX)/64"]
    assert all(f"{word} " in said_by_help("prepare") for word in words if word.startswith("--"))


@pytest.mark.parametrize("document", [*KUBERNETES, INDEXED], ids=lambda document: document["kind"])
def test_objects_fit_the_schema_of_kubernetes(document: Any):
    pytest.importorskip("kubernetes_validate").validate(document, "1.31", strict=True)
