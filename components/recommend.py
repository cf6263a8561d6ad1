"""Rank the tracks to play next, for one session or for a Parquet file of them.

Example:
  skipwise recommend --export exports/best --session "t_1:kept,t_2:skip,t_3"
  skipwise recommend --export exports/best --input sessions.parquet --output recommended.parquet
"""

from skipwise.retrieval.recommend.config import RecommendConfig


def recommend(config: RecommendConfig) -> None:
    """Prints ranked tracks with their scores, and P(kept) where the export has it, or writes them to `output`."""
    import warnings

    import pyarrow as pa

    from skipwise.common.console import note
    from skipwise.retrieval.recommend.bulk import recommend_file
    from skipwise.retrieval.recommend.session_text import known_tracks, print_ranked, read_profile, read_session
    from skipwise.retrieval.recommend.track_recommender import TrackRecommender

    plays = None if config.session is None else read_session(config.session)  # refused before an export is read
    kept = None if config.profile is None else read_profile(config.profile)
    recommender = TrackRecommender.load(config.export, config.search, config.tracks)
    if said := recommender.unmeasured(config.dial):
        note(f"warning: {said}")
    if config.dial == "auto":
        note(f"--dial auto is {recommender.dial('auto'):g} here")
    if plays is None:
        recommend_file(config, recommender)
        return
    skipped = pa.array([[play.skipped for play in plays]], pa.list_(pa.bool_()))
    profile = None if kept is None else [known_tracks(recommender.tracks, kept, "--profile")]
    session = pa.table({"tracks": [known_tracks(recommender.tracks, plays)], "skips": skipped})
    with warnings.catch_warnings(action="ignore"):  # of what was said above
        options = {name: getattr(config, name) for name in ("k", "exclude", "dial", "filter", "cool_down")}
        ranked = recommender.recommend(session, profile=profile, **options)
    columns = {name: ranked[name][0].as_py() for name in ranked.column_names}
    if not columns["tracks"]:
        note("no track is left to recommend: --filter, --cool-down or the tracks of the session leave none")
        return
    print_ranked(columns, recommender.names(columns["tracks"]))
