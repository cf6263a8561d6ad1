"""List the tracks whose embeddings are nearest to a track's.

Example:
  skipwise similar --export exports/best --track t_1 -k 20
"""

from skipwise.retrieval.recommend.config import SimilarConfig


def similar(config: SimilarConfig) -> None:
    """Prints the nearest tracks and how similar they are."""
    from skipwise.common.console import note
    from skipwise.retrieval.recommend.session_text import print_ranked
    from skipwise.retrieval.recommend.track_recommender import TrackRecommender

    recommender = TrackRecommender.load(config.export, "exact")
    ranked = recommender.similar(config.track, config.k, config.by)
    if not ranked:
        note(f"{config.export} has no other track than {config.track}")
        return
    columns = {name: [one[place] for one in ranked] for place, name in enumerate(("tracks", "scores"))}
    print_ranked(columns, recommender.names([track for track, _ in ranked]))
