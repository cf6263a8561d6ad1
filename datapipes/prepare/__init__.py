"""Turns raw listening logs into a dataset directory."""

from datapipes.prepare.config import PrepareConfig
from datapipes.prepare.run import prepare

__all__ = ["PrepareConfig", "prepare"]
