"""Fixtures: an object store, empty for each test."""

from tests.support.stored import bucket, object_store

__all__ = ["bucket", "object_store"]
