"""Write a synthetic log in MSSD's schema: no real listener is in it, and its figures say nothing about real ones.

Tracks fall into taste clusters with Zipf popularity, and each has two successors in its cluster's playlist. A
listener has one cluster: they mostly go on from the track they last kept, sometimes jump within the cluster, and
sometimes are played a track of another one, which they mostly skip.

Example:
  skipwise synthesize --output log.csv --sessions 12000 --tracks 3000
"""

from skipwise.datapipes import synthesize as datapipe
from skipwise.datapipes.synthesize import SynthesizeConfig


def synthesize(config: SynthesizeConfig) -> None:
    """Writes the log."""
    datapipe.synthesize(config)
