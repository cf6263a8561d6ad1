"""A service of small exports in a thread, and Chromium with a page that keeps what it asked for and what went wrong."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect

from skipwise.retrieval.serve.app import make_app
from skipwise.retrieval.serve.config import ServeConfig
from skipwise.retrieval.serve.service import Service
from tests.page.exports import LastAndMean, write_dialled, write_export, write_named
from tests.support.browsing import chromium
from tests.support.exports import stands_for_the_encoder

HOSTILE = """<img src=x onerror="document.title='owned'">&amp;"""
"""A track's id that must stay text."""
TRACKS = [HOSTILE, *(f"t_{row:03}" for row in range(160))]
OTHER_TRACKS = TRACKS[:100]

expect.set_options(timeout=15_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Not the session's: while playwright runs, no test of this process can run an event loop of its own."""
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def exports(tmp_path_factory) -> Path:
    """`main` was trained on skips; `blind` was not; `other` knows fewer tracks, and does not read skipped ones.

    `named` has titles and an artist. `dialled` reads skips and has a keep head; `gloomy` too, but was measured to
    expect fewer skips.
    """
    folder = tmp_path_factory.mktemp("page")
    write_export(folder / "main", TRACKS, seed=0, alpha=0.25)
    write_export(folder / "blind", TRACKS, seed=1, alpha=0.0)
    write_export(folder / "other", OTHER_TRACKS, seed=2, alpha=0.25, skipped_tracks="filter")
    write_dialled(folder / "dialled", TRACKS, usual=0.95)
    write_dialled(folder / "gloomy", TRACKS, usual=0.05)
    write_named(folder / "named", TRACKS, [HOSTILE, *(f"Song {row}" if row else None for row in range(160))])
    (folder / "report.html").write_text("<!doctype html><title>Report</title><h1>How it was trained</h1>")
    return folder


@contextmanager
def serving(own_encoder: bool = False, **options) -> Iterator[str]:
    """The URL of a service of these options. Not to outlast a module: other tests change this process's clock.

    Exports have the queries of `LastAndMean`, or with `own_encoder` those of the weights that they hold.
    """
    with nullcontext() if own_encoder else stands_for_the_encoder(LastAndMean()):
        service = Service(ServeConfig(**options, reload_s=0))
    server = uvicorn.Server(uvicorn.Config(make_app(service), log_level="warning", lifespan="on", ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def service(exports) -> Iterator[str]:
    """One export and no report."""
    with serving(export=exports / "main") as url:
        yield url


@pytest.fixture(scope="module")
def named(exports) -> Iterator[str]:
    """One export whose tracks have titles and an artist."""
    with serving(export=exports / "named") as url:
        yield url


@pytest.fixture(scope="module")
def dialled(exports) -> Iterator[str]:
    """An export with a keep head, compared with another."""
    with serving(own_encoder=True, export=exports / "dialled", compare=exports / "gloomy") as url:
        yield url


@pytest.fixture(scope="module")
def two_models(exports) -> Iterator[str]:
    """Two exports of the same tracks, and a report."""
    with serving(export=exports / "main", compare=exports / "blind", report=exports / "report.html") as url:
        yield url


@pytest.fixture
def open_page(browser) -> Iterator[Callable[..., Page]]:
    """`open_page(url, **options)`: a page in a context of its own. No page may throw, or ask any other host."""
    contexts, asked, thrown = [], [], []

    def opened(url: str, script: str = "", **options) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append((urlsplit(url).netloc, request.url)))
        page.on("pageerror", lambda error: thrown.append(str(error)))
        page.on("console", lambda said: thrown.append(said.text) if "Policy" in said.text else None)
        if script:
            page.add_init_script(script)
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not thrown
    assert asked and all(urlsplit(to).netloc == host for host, to in asked), asked
