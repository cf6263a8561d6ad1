"""The options of `prepare` that share the work among processes or machines."""

import re
from dataclasses import dataclass
from typing import Literal

ShardStep = Literal["read", "group"]
MOST_SHARDS = 4096


@dataclass(frozen=True, kw_only=True)
class ShardOptions:
    """Who does the work. The dataset directory has the same bytes, whatever is given here."""

    workers: int = 1
    """Processes of this machine, which share --memory and --threads; with --spark, tasks of a cluster."""
    spark: str | None = None
    """The master of an Apache Spark cluster whose executors do the work: yarn, k8s://..., spark://HOST:7077 or
    local-cluster[2,1,1024]. They need this package, and --input and --output where all of them see them."""
    step: Literal["read", "group", "merge", "all"] | None = None
    """One step of the work, for a scheduler that runs the shards: `read` for each --shard, then `group` for each, then
    `merge` once; or `all` for each --shard at the same time: they wait for each other, and shard 0 merges. What is
    done stands in OUTPUT.shards, and is not done again."""
    shard: str | None = None
    """With --step read, group or all: which shard of how many, from 0, such as 3/64."""

    @property
    def numbers(self) -> tuple[int, int]:
        """With --shard: its number, from 0, and how many there are."""
        number, _, count = (self.shard or "").partition("/")
        return int(number), int(count)

    def check_shards(self) -> None:
        """Raises `ValueError` where these options do not go together."""
        if not 1 <= self.workers <= MOST_SHARDS:
            raise ValueError(f"--workers must be from 1 to {MOST_SHARDS}, not {self.workers}")
        if self.step is not None and (self.workers > 1 or self.spark is not None):
            raise ValueError("--step is the work of one process: leave --workers and --spark out")
        of_shards = ("read", "group", "all")
        if self.step in of_shards and self.shard is None:
            raise ValueError(f"--step {self.step} needs the shard: give --shard 0/64 and so on")
        if self.step not in of_shards and self.shard is not None:
            raise ValueError("--shard belongs to --step read, group and all: leave it out")
        if self.shard is not None:
            found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", self.shard, re.ASCII)
            if not found or not int(found[1]) < int(found[2]) <= MOST_SHARDS:
                raise ValueError(
                    f"--shard must be a number from 0 and how many there are, up to {MOST_SHARDS}, such as 3/64, not "
                    f"'{self.shard}'"
                )
