"""The check for newer exports goes on, whatever fails, and /health says that it fails."""

import asyncio
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skipwise.common.errors import UserError
from skipwise.retrieval.serve import served_export, service
from skipwise.retrieval.serve.config import ServeConfig
from skipwise.retrieval.serve.served_export import ServedExport
from skipwise.retrieval.serve.service import Service

EVERY_S, AT_LAST_S = 0.02, 0.7


@pytest.fixture
def link(export: Path, tmp_path: Path) -> Path:
    (tmp_path / "link").symlink_to(shutil.copytree(export, tmp_path / "first"))
    return tmp_path / "link"


def point(link: Path, target: Path | str) -> None:
    link.with_name("aside").symlink_to(target)
    os.replace(link.with_name("aside"), link)


async def until(condition: Callable[[dict[str, Any]], bool], running: Service, name: str = "main") -> dict[str, Any]:
    """The export's entry in /health, once it is so."""
    async with asyncio.timeout(20):
        while not condition(entry := running.health()["exports"][name]):
            await asyncio.sleep(EVERY_S / 2)
    return entry


def test_a_loop_of_links(link: Path, other: Path):
    async def run() -> None:
        running = Service(ServeConfig(link, reload_s=EVERY_S))
        async with running.running():
            point(link, "link")
            entry = await until(lambda entry: bool(entry["reload_error"]), running)
            assert "link" in entry["reload_error"] and entry["loaded"] == 1
            point(link, other)
            await until(lambda entry: entry["loaded"] == 2 and entry["reload_error"] is None, running)

    asyncio.run(run())


@pytest.mark.parametrize("fault", [RuntimeError("can't start new thread"), MemoryError(), RecursionError("deep")])
def test_checks_that_fail(
    link: Path, other: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, fault: Exception
):
    """They are tried again at longer and longer intervals, for the other export too; one line is logged."""
    times, healthy, right = [], False, served_export.fingerprint

    def fingerprint(path: Path) -> Any:
        if path == link and not healthy:
            times.append(time.monotonic())
            raise fault
        return right(path)

    async def run() -> None:
        nonlocal healthy
        running = Service(ServeConfig(link, compare, reload_s=EVERY_S))
        monkeypatch.setattr(served_export, "fingerprint", fingerprint)
        monkeypatch.setattr(service, "_MOST_WAIT_S", AT_LAST_S)
        async with running.running():
            entry = await until(lambda entry: len(times) >= 5, running)
            assert type(fault).__name__ in entry["check_error"] and entry["loaded"] == 1
            point(compare, other)
            await until(lambda entry: entry["loaded"] == 2, running, "compare")
            point(link, other)
            healthy = True
            entry = await until(lambda entry: entry["loaded"] == 2, running)
            assert entry["check_error"] is None and running.exports["main"].failures == 0

    compare = link.with_name("compare")
    compare.symlink_to("first")
    asyncio.run(run())
    waits = np.diff(times)
    for number, wait in enumerate(waits, 1):
        assert wait >= min(EVERY_S * 2**number, AT_LAST_S) * 0.9
    assert capfd.readouterr().err.count("cannot check") <= 1


def test_memory_that_comes_back(link: Path, other: Path, monkeypatch: pytest.MonkeyPatch):
    """An export that did not fit is tried again, though its files are the same."""
    tries, right = [], ServedExport.open

    def opened(*words: Any, **options: Any) -> ServedExport:
        tries.append(words)
        if len(tries) < 3:
            raise UserError("it cannot be opened") from MemoryError("of 8 GB")
        return right(*words, **options)

    async def run() -> None:
        running = Service(ServeConfig(link, reload_s=EVERY_S))
        monkeypatch.setattr(ServedExport, "open", opened)
        async with running.running():
            point(link, other)
            assert (
                "MemoryError: of 8 GB"
                in (await until(lambda entry: bool(entry["check_error"]), running))["check_error"]
            )
            await until(lambda entry: entry["loaded"] == 2 and entry["check_error"] is None, running)

    asyncio.run(run())
    assert len(tries) == 3


def test_a_part_that_fails_is_started_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(service, "_RESTART_S", 0)
    starts = []

    async def part() -> None:
        starts.append(1)
        if len(starts) < 3:
            raise MemoryError

    asyncio.run(service._kept_running(part))
    assert len(starts) == 3
