"""Turns raw listening logs into a dataset directory."""

from skipwise.datapipes.prepare.config import PrepareConfig
from skipwise.datapipes.prepare.explain_log import explain
from skipwise.datapipes.prepare.prepare_log import prepare, prepare_shard

__all__ = ["PrepareConfig", "explain", "prepare", "prepare_shard"]
