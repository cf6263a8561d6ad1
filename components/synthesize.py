"""Write a synthetic log in MSSD's schema: no real listener is in it, and its figures say nothing about real ones.

Tracks fall into taste clusters with Zipf popularity, and each has two successors in its cluster's playlist. A
listener has one cluster: they mostly go on from the track they last kept, sometimes jump within the cluster, and
sometimes are played a track of another one, which they mostly skip. With --planted, one known rule decides the skips.

Examples:
  skipwise synthesize --output log.csv --sessions 12000 --tracks 3000
  skipwise synthesize --output state.csv --sessions 2000 --tracks 200 --clusters 4 --zipf 0 --planted state
"""

from skipwise.datapipes import synthesize as datapipe
from skipwise.datapipes.synthesize import SynthesizeConfig


def synthesize(config: SynthesizeConfig) -> None:
    """Writes the log."""
    datapipe.synthesize(config)
