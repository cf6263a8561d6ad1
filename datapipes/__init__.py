"""Bytes on disk to `SessionBatch`. Knows Arrow, not models."""
