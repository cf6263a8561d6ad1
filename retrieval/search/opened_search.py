"""The search that an export is served by: the index its manifest names, or the exact one."""

from typing import Literal

from skipwise.common.errors import UserError
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.search.exact import ExactSearch, Search
from skipwise.retrieval.search.faiss_search import IndexSearch
from skipwise.retrieval.search.stored import read_placed, refuse_other_records

Which = Literal["auto", "exact", "index"]
"""`index`: the chosen one; `auto`: that where there is one, else the exact search."""


def open_search(opened: OpenExport, which: Which = "auto") -> Search:
    """Raises `UserError` where an index is wanted and there is none, or where it is not what the manifest says.

    Where the exact search was chosen as the fastest, it is the index.
    """
    record = opened.manifest.index
    if which == "exact" or (which == "auto" and not record):
        return ExactSearch(opened.vectors)
    if not record:
        raise UserError(f"{opened.path} has no index: make one with index --export {opened.path}, or search exactly")
    refuse_other_records(opened)
    if record["kind"] == "flat":
        return ExactSearch(opened.vectors)
    return IndexSearch(read_placed(opened), opened.vectors, record["search"])
