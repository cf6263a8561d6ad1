"""Qdrant: a collection of inner products, a point for each track, its names in the payload."""

import os
import uuid
from collections.abc import Iterator
from typing import Any, Self

from skipwise.common.errors import UserError
from skipwise.common.versions import import_extra
from skipwise.retrieval.push.config import PushConfig
from skipwise.retrieval.push.destination import PushedState, read_state
from skipwise.retrieval.push.exported_rows import DIGEST, ExportedRows

_SPACE = uuid.UUID("6d3b7a54-2a0c-5d0e-9f0e-0c8d7c1f4a11")
_PAGE = 10_000
_TIMEOUT_S = 60
TRACK = "track"


def point_id(track: str) -> str:
    """Qdrant's ids are numbers or UUIDs: the UUID of a track id."""
    return str(uuid.uuid5(_SPACE, track))


class QdrantDestination:
    """A `Destination`."""

    def __init__(self, config: PushConfig, dim: int, names: list[str]):
        """`names`: of the payload, each with an index to filter by."""
        client = import_extra("qdrant", "--to qdrant")
        self._models, self._config, self._dim, self._names = client.models, config, dim, names
        raised = import_extra("qdrant", "--to qdrant", "qdrant_client.http.exceptions")
        self.errors: tuple[type[Exception], ...] = (raised.ApiException, ValueError, OSError, RuntimeError)
        self._client: Any = None
        self._make = client.QdrantClient

    def __enter__(self) -> Self:
        url, models = self._config.url, self._models
        if "://" in url:
            self._client = self._make(url=url, api_key=os.environ.get("QDRANT_API_KEY"), timeout=_TIMEOUT_S)
        else:
            self._client = self._make(path=url)
        if self._config.alias in {one.name for one in self._client.get_collections().collections}:
            raise UserError(
                f"{url} has a collection {self._config.alias!r}, so that no alias has this name: give another --alias"
            )
        if not self._client.collection_exists(self._config.name):
            self._client.create_collection(
                self._config.name,
                vectors_config=models.VectorParams(size=self._dim, distance=models.Distance.DOT),
                metadata=PushedState().model_dump(),
            )
            if "://" in url:  # its client alone has none
                for name in (TRACK, *self._names):
                    self._client.create_payload_index(self._config.name, name, models.PayloadSchemaType.KEYWORD)
        else:
            self._check()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def _check(self) -> None:
        found = self._client.get_collection(self._config.name).config
        vectors = found.params.vectors
        if read_state(found.metadata) is None:
            raise UserError(
                f"{self._config.url} has a collection {self._config.name!r} that push did not make: give another --name"
            )
        if (vectors.size, vectors.distance) != (self._dim, self._models.Distance.DOT):
            raise UserError(
                f"the collection {self._config.name!r} of {self._config.url} holds vectors of {vectors.size} numbers "
                f"by {vectors.distance.value}, and the export has {self._dim} for inner products: give another --name"
            )

    def state(self) -> PushedState:
        """From the collection's metadata."""
        return read_state(self._client.get_collection(self._config.name).config.metadata) or PushedState()

    def mark(self, state: PushedState) -> None:
        """Into the collection's metadata."""
        self._client.update_collection(self._config.name, metadata=state.model_dump())

    def digests(self) -> Iterator[tuple[str, str]]:
        """Page by page, without vectors."""
        offset = None
        while True:
            points, offset = self._client.scroll(
                self._config.name, limit=_PAGE, offset=offset, with_payload=[TRACK, DIGEST], with_vectors=False
            )
            for point in points:
                yield point.payload[TRACK], point.payload[DIGEST]
            if offset is None:
                return

    def upsert(self, rows: ExportedRows) -> None:
        """Waits until the points are stored."""
        tagged = zip(rows.tracks, rows.names, rows.digests, strict=True)
        batch = self._models.Batch(
            ids=[point_id(track) for track in rows.tracks],
            vectors=rows.vectors_BD.tolist(),
            payloads=[{TRACK: track, **names, DIGEST: digest} for track, names, digest in tagged],
        )
        self._client.upsert(self._config.name, batch, wait=True)

    def delete(self, tracks: list[str]) -> None:
        """By their ids."""
        ids = self._models.PointIdsList(points=[point_id(track) for track in tracks])
        self._client.delete(self._config.name, ids, wait=True)

    def count(self) -> int:
        """Exactly."""
        return int(self._client.count(self._config.name, exact=True).count)

    def turn(self, alias: str) -> None:
        """In one step: whoever asks by the alias sees the older collection or this one."""
        models = self._models
        steps = [
            models.CreateAliasOperation(
                create_alias=models.CreateAlias(collection_name=self._config.name, alias_name=alias)
            )
        ]
        if any(one.alias_name == alias for one in self._client.get_aliases().aliases):
            steps.insert(0, models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)))
        self._client.update_collection_aliases(steps)
