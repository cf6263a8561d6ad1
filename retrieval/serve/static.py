"""The page's files and the report, as they are on the disk."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from skipwise.retrieval.serve.answers import Refusal

PAGE = Path(__file__).parent / "page"
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
"""Of one HTML file that needs no other and runs no script."""


def add_page(app: FastAPI, report: Path | None) -> None:
    """`/report`, read anew whenever it is asked for, and the page at `/` with its files beside it."""

    @app.get("/report", summary="The run's report, as HTML", response_class=Response)
    async def shown() -> Response:
        if report is None:
            raise Refusal(404, "there is no report here: start the service with --report report.html")
        if not report.is_file():
            raise Refusal(404, "the report's file is gone: write it again with report")
        return FileResponse(report, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})

    files = StaticFiles(directory=PAGE, check_dir=False)
    for file in PAGE.glob("*.*"):
        app.add_route("/" if file.name == "index.html" else f"/{file.name}", _giving(files, file.name))


def _giving(files: StaticFiles, name: str) -> Callable[[Request], Awaitable[Response]]:
    async def give(request: Request) -> Response:
        return await files.get_response(name, request.scope)

    return give
