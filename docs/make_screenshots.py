"""Makes docs/images: the page and the report of a small model of a generated log, as headless Chromium shows them.

    python docs/make_screenshots.py [WORK_DIR]

takes some minutes. Runs and exports go into WORK_DIR, by default a temporary folder; what it holds is used again.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Literal

from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
LONGEST_WAIT_S = 60.0
Scheme = Literal["light", "dark"]


def skipwise(*words: str, folder: Path) -> None:
    """Runs one command in `folder` and shows what it prints."""
    subprocess.run([sys.executable, "-m", "skipwise", *words], cwd=folder, check=True)


def make_exports(folder: Path) -> None:
    """A run that reads skips and has a keep head, one that is blind to them, both exported, and a report on both."""
    quick = "--train.epochs 3 --train.no-refit"
    skips = "--data.inputs skips --loss.keep 0.5"
    steps = {
        "log.csv.gz": "synthesize --output log.csv.gz --sessions 1500 --tracks 600",
        "data": "prepare --input log.csv.gz --output data --split session --title title --artist artist",
        "runs/best/metrics.json": f"train best --data.path data --run-dir runs/best {skips} {quick}",
        "runs/blind/metrics.json": f"train best-skip-blind --data.path data --run-dir runs/blind {quick}",
        "exports/best": "export --run runs/best --output exports/best",
        "exports/blind": "export --run runs/blind --output exports/blind",
        "runs/best/baselines/stan/metrics.json": "evaluate --run runs/best --baselines",
        "runs/blind/baselines/stan/metrics.json": "evaluate --run runs/blind --baselines",
        "report.html": "report --run runs/best --run runs/blind --output report.html",
    }
    for made, line in steps.items():
        if not (folder / made).exists():
            skipwise(*line.split(), folder=folder)


def chromium() -> str:
    """The browser's path; CHROMIUM names one that is not on the path."""
    for name in (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name) if name else None
        if found:
            return found
    sys.exit("make_screenshots: there is no Chromium; install it, or name one in CHROMIUM")


def free_port() -> int:
    """A port of the loopback that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(url: str) -> None:
    """Returns once `url` answers; raises `TimeoutError` after a minute."""
    until = time.monotonic() + LONGEST_WAIT_S
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:  # of urllib, or a service that is slow to start
            time.sleep(0.2)
    raise TimeoutError(f"{url} did not answer within {LONGEST_WAIT_S:.0f} s")


def take(page: Page, url: str, name: str, size: tuple[int, int], heading: str = "", scheme: Scheme = "light") -> None:
    """A screenshot of this width and height, from the top of a page or from a heading on."""
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.goto(url)
    page.wait_for_load_state("networkidle")
    if heading:
        page.get_by_role("heading", name=heading, exact=True).evaluate("node => node.scrollIntoView()")
    page.screenshot(path=IMAGES / name)
    print(f"{IMAGES / name}: {(IMAGES / name).stat().st_size // 1024} KB")


def make_screenshots(folder: Path) -> None:
    """Trains, exports and serves in `folder`, and replaces the images."""
    make_exports(folder)
    port = free_port()
    command = f"serve --export exports/best --compare exports/blind --report report.html --port {port}".split()
    IMAGES.mkdir(exist_ok=True)
    with (
        subprocess.Popen([sys.executable, "-m", "skipwise", *command], cwd=folder) as service,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"]) as browser,
    ):
        try:
            wait_for(f"http://127.0.0.1:{port}/health")
            page = browser.new_page()
            url = f"http://127.0.0.1:{port}"
            take(page, url, "page.png", (1280, 900))
            take(page, f"{url}/?dark", "page-phone.png", (390, 844), scheme="dark")
            take(page, f"{url}/report", "report.png", (1200, 900), "Hit rates")
        finally:
            service.terminate()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        make_screenshots(Path(sys.argv[1]).resolve())
    else:
        with tempfile.TemporaryDirectory() as work:
            make_screenshots(Path(work))
