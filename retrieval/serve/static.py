"""The page's files and the report, as they are on the disk."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from retrieval.serve.answers import Refusal

PAGE = Path(__file__).parent / "page"
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
"""Of one HTML file that needs no other and runs no script."""


def add_page(app: FastAPI, report: Path | None) -> None:
    """`/`, `/static` and `/report`. What stands in `report` is read whenever it is asked for."""

    @app.get("/report", summary="The run's report, as HTML", response_class=Response)
    async def shown() -> Response:
        if report is None:
            raise Refusal(404, "there is no report here: start the service with --report report.html")
        if not report.is_file():
            raise Refusal(404, "the report's file is gone: write it again with report")
        return FileResponse(report, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", media_type="text/html")

    app.mount("/static", StaticFiles(directory=PAGE))
