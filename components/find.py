"""Search an export's tracks by words of their titles and artists, or by how their ids begin.

Example:
  skipwise find --export exports/best "quiet rain"
"""

from skipwise.retrieval.recommend.config import FindConfig


def find(config: FindConfig) -> None:
    """Prints what is found, the most played first."""
    from skipwise.common.console import note
    from skipwise.retrieval.find_tracks import find_tracks, named_tracks
    from skipwise.retrieval.open_export import OpenExport
    from skipwise.retrieval.recommend.session_text import print_ranked

    opened = OpenExport.open(config.export)
    found = find_tracks(opened, config.text, config.k)
    if found:
        print_ranked({"tracks": found}, named_tracks(opened, found))
        return
    note(
        "no track has these words in its title or artist, nor an id that begins so"
        if opened.words
        else "no track has an id that begins so, and the export has no titles or artists to search"
    )
