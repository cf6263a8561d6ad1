"""Turn raw listening logs into a dataset directory.

The defaults read Spotify's MSSD; docs/data.md shows other logs.

Example:
  skipwise prepare --input log.csv --output data/log
"""

from typing import Annotated

from tyro.conf import OmitArgPrefixes, arg

from skipwise.datapipes.prepare.config import (
    InputOptions,
    OutputOptions,
    PrepareConfig,
    SessionOptions,
    SkipOptions,
    SplitOptions,
)


def _in_groups(
    input: InputOptions, skips: SkipOptions, sessions: SessionOptions, split: SplitOptions, output: OutputOptions
) -> PrepareConfig:
    return PrepareConfig(**vars(input), **vars(skips), **vars(sessions), **vars(split), **vars(output))


def prepare(config: Annotated[PrepareConfig, arg(constructor=_in_groups), OmitArgPrefixes]) -> None:
    """Writes the dataset directory."""
    from skipwise.datapipes.prepare import prepare

    prepare(config)
