"""Chromium, and axe-core in its pages."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

AXE = Path(os.environ.get("AXE_CORE") or Path(sys.prefix) / "axe-core" / "package" / "axe.min.js")
"""As `make axe` gets it from npm."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Skips the test where there is none."""
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.skip("needs Chromium: apt-get install chromium, or give its path in the environment's CHROMIUM")
    with sync_playwright() as playwright:
        with playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"]) as browser:
            yield browser


def faults_by_axe(page: Page) -> list[str]:
    """What axe-core finds on a page as it is, by rule and element. Skips the test where there is no axe-core."""
    if not AXE.is_file():
        pytest.skip("needs axe-core: make axe, or give the path of its axe.min.js in the environment's AXE_CORE")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run().then(({ violations }) => violations)")
    return [f"{one['id']}: {node['html'][:150]} {node['failureSummary']}" for one in found for node in one["nodes"]]
