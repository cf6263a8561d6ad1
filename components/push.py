"""Put an export's embeddings into Qdrant or PostgreSQL (pgvector); later pushes send only what has changed.

Example:
  skipwise push --export exports/best --to qdrant --url http://localhost:6333 --name tracks
  skipwise push --export exports/best --to pgvector --url postgresql://me@localhost/music --name tracks
"""

from skipwise.retrieval.push.config import PushConfig


def push(config: PushConfig) -> None:
    """Prints how many rows were written and taken out; an interrupted push is repeated."""
    from skipwise.retrieval.push.pusher import push_export

    push_export(config)
