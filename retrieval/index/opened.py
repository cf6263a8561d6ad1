"""The search that an export is served by: the index its manifest names, or the exact one."""

from typing import Literal

from datapipes.errors import UserError
from retrieval.opened import OpenExport
from retrieval.search import ExactSearch, Search

Which = Literal["auto", "exact", "index"]
"""`index`: the chosen one; `auto`: that where there is one, else the exact search."""


def open_search(opened: OpenExport, which: Which = "auto") -> Search:
    """Raises `UserError` where an index is wanted and there is none, or where it is not what the manifest says."""
    if which == "exact" or (which == "auto" and not opened.manifest.index):
        return ExactSearch(opened.vectors)
    if not opened.manifest.index:
        raise UserError(f"{opened.path} has no index: make one with index --export {opened.path}, or search exactly")
    raise NotImplementedError
