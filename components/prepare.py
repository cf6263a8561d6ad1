"""Turn raw listening logs into a dataset directory.

The defaults read Spotify's MSSD; docs/data.md shows other logs.

Example:
  skipwise prepare --input log.csv --output data/log
  skipwise prepare --explain plays.json
"""

from typing import Annotated

from tyro.conf import OmitArgPrefixes, arg

from skipwise.datapipes.prepare.config import (
    InputOptions,
    OutputOptions,
    PrepareConfig,
)
from skipwise.datapipes.prepare.feature_options import FeatureOptions
from skipwise.datapipes.prepare.name_options import NameOptions
from skipwise.datapipes.prepare.session_options import SessionOptions
from skipwise.datapipes.prepare.shard_options import ShardOptions
from skipwise.datapipes.prepare.skip_options import SkipOptions
from skipwise.datapipes.prepare.split_options import SplitOptions


def _in_groups(
    input: InputOptions,
    names: NameOptions,
    features: FeatureOptions,
    skips: SkipOptions,
    sessions: SessionOptions,
    split: SplitOptions,
    output: OutputOptions,
    shards: ShardOptions,
) -> PrepareConfig:
    groups = (input, names, features, skips, sessions, split, output, shards)
    return PrepareConfig(**{name: value for group in groups for name, value in vars(group).items()})


def prepare(config: Annotated[PrepareConfig, arg(constructor=_in_groups), OmitArgPrefixes]) -> None:
    """Writes the dataset directory, or says how a log could be read."""
    from skipwise.datapipes.prepare import explain, prepare, prepare_shard

    if config.explain is not None:
        print(*explain(config), sep="\n")
    elif config.shard is not None:
        prepare_shard(config)
    else:
        prepare(config)
