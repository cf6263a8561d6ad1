"""The search for tracks that people type into: by words of titles and artists, and by how ids begin."""

from itertools import islice

import numpy as np

from skipwise.retrieval.open_export import OpenExport


def find_tracks(opened: OpenExport, text: str, limit: int) -> list[str]:
    """Ids of at most `limit` tracks: the one of the id `text`, then those found by words, then ids that begin so."""
    tracks = opened.tracks
    found = {text: None} if tracks.row(text) is not None else {}
    if opened.words:
        rows = [row for row in opened.words.find(text, limit) if 0 <= row < len(tracks)]  # of a foreign file
        found |= dict.fromkeys(tracks.ids(np.array(rows, dtype=np.int64)).to_pylist())
    if len(found) < limit:
        found |= dict.fromkeys(islice(tracks.starting_with(text, limit), limit))
    return list(found)[:limit]


def named_tracks(opened: OpenExport, found: list[str]) -> list[dict[str, str]]:
    """Each of these tracks with what it is called: {"track": id, "title": ...}."""
    named = opened.tracks.named_rows(opened.tracks.rows_of(found))
    return [{"track": track} | names for track, names in zip(found, named, strict=True)]
