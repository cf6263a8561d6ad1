"""A run that goes on for ever: parts of data as they land, rows for new tracks, deltas of what has changed."""
