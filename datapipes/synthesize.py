"""Writes a synthetic listening log in MSSD's schema, with structure that a session model can learn."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from skipwise.common.console import stage
from skipwise.common.errors import UserError
from skipwise.common.outputs import atomic_output
from skipwise.datapipes.invented_features import invented_features
from skipwise.datapipes.invented_names import artists, titles
from skipwise.datapipes.planted_tastes import listener_columns, play_favourites
from skipwise.datapipes.view import counts_as_skipped

SESSIONS_PER_CHUNK = 8192
SHORTEST, LONGEST = 10, 20
FOLLOW, WANDER = 0.6, 0.15
SKIPPED = np.array([0.3, 0.9])
"""Share of plays skipped of the listener's cluster, and of another one."""
STRENGTH_ENDS = np.array([[0.4, 0.7], [0.75, 0.95]])
"""For both, the shares of these skips of strength 1, and of strength 1 or 2: others are skipped earlier."""
TASTE = 3.0
"""`content`: what the cosine weighs in the logit of P(kept)."""
TURNS = 0.8
"""`state`: chance that what happened to a play does not happen to the next one."""
BAITS, BAIT = 2, 0.8
"""`pairs`: baits of a cluster, and the chance that one follows a kept track."""
BAITED, DRAWN = 0.9, 0.1
"""`pairs`: chances that a bait, and any other play, is skipped."""
CONTEXTS = ("editorial_playlist", "user_collection", "catalog", "radio")


@dataclass(frozen=True)
class SynthesizeConfig:
    """Write a synthetic log in MSSD's schema: no real listener is in it, and its numbers say nothing about real ones.

    Tracks fall into taste clusters with Zipf popularity, and each has two successors in its cluster's playlist. A
    listener has one cluster: they mostly go on from the track they last kept, sometimes jump within the cluster, and
    sometimes are played a track of another one, which they mostly skip.
    """

    output: Path
    """File to write: .csv, .csv.gz or .parquet by its name."""
    sessions: int
    """Number of sessions, each of 10 to 20 plays."""
    tracks: int
    """Number of tracks in the catalogue; rare ones may go unplayed."""
    seed: int = 0
    """Seed of everything drawn: the same seed writes the same bytes."""
    clusters: int = 50
    """Number of taste clusters, at least 2 tracks each."""
    zipf: float = 1.0
    """Exponent of popularity within a cluster: 0 is uniform, more is steeper."""
    planted: Literal["none", "content", "state", "pairs", "tastes"] = "none"
    """One rule that alone decides what is played and skipped, in place of the above: the track's hidden taste against
    the listener's, what happened to the last play, which track follows which, or favourites of a listener who has
    several sessions (docs/data.md, "Planted skips")."""
    track_features: Path | None = None
    """Write what is known of each track as well, into this .parquet file: genre, artist, tags, year and audio, which
    say where it stands in the planted structure (for `prepare --track-features`)."""
    names: bool = True
    """Write invented titles and artists too, in the columns `title` and `artist`, which MSSD does not have."""
    overwrite: bool = False
    """Replace an `output` file that exists."""

    def __post_init__(self) -> None:
        for flag, value in (("--sessions", self.sessions), ("--clusters", self.clusters)):
            if value < 1:
                raise ValueError(f"{flag} must be at least 1, not {value}")
        if self.tracks < 2 * self.clusters:
            least = f"twice --clusters, {2 * self.clusters}"
            raise ValueError(f"--tracks must be at least {least}, not {self.tracks}: raise it or lower --clusters")
        if self.planted == "pairs" and self.clusters == 1:
            raise ValueError("--planted pairs takes baits of another cluster: --clusters must be at least 2")
        if self.tracks > 100_000_000:
            raise ValueError(f"--tracks must be at most 100000000, not {self.tracks}: the catalogue is kept in memory")
        if self.seed < 0:
            raise ValueError(f"--seed must not be negative, not {self.seed}")
        if not 0 <= self.zipf <= 5:
            raise ValueError(f"--zipf must be from 0 to 5, not {self.zipf}")
        if not self.output.name.endswith((".csv", ".csv.gz", ".parquet")):
            raise ValueError(f"--output must end in .csv, .csv.gz or .parquet, not '{self.output.name}'")
        if self.track_features is not None and not self.track_features.name.endswith(".parquet"):
            raise ValueError(f"--track-features must end in .parquet, not '{self.track_features.name}'")


class Catalogue:
    """The planted structure. Tracks are numbered by cluster, then popularity; only their ids are shuffled."""

    def __init__(self, config: SynthesizeConfig) -> None:
        random = np.random.default_rng([config.seed, 0])
        self.starts = np.linspace(0, config.tracks, config.clusters + 1).astype(np.int64)
        self.sizes = np.diff(self.starts)
        weights = (1.0 + np.arange(self.sizes.max())) ** -config.zipf
        self.cumulative = np.cumsum(weights) / weights.sum()
        self.successors = np.empty((2, config.tracks), dtype=np.int32)
        self.places = np.empty((2, config.tracks))
        for row, place in zip(self.successors, self.places, strict=True):
            for start, size in zip(self.starts[:-1], self.sizes, strict=True):
                playlist = start + random.permutation(size)
                row[playlist], place[playlist] = np.roll(playlist, -1), np.arange(size) / size
        hidden = np.random.default_rng([config.seed, 2])
        self.tastes = hidden.random(config.clusters) * 2 * np.pi
        self.angles = np.concatenate([hidden.permutation(size) * 2 * np.pi / size for size in self.sizes])
        width = len(str(config.tracks - 1))
        numbers = pa.array(random.permutation(config.tracks)).cast(pa.string())
        self.ids = pc.binary_join_element_wise("t", pc.utf8_lpad(numbers, width, "0"), "_")

    def draw(self, random: np.random.Generator, cluster: np.ndarray) -> np.ndarray:
        """A track for each of the given clusters, by popularity."""
        rank = np.searchsorted(self.cumulative, random.random(len(cluster)), side="right")
        return self.starts[cluster] + rank % self.sizes[cluster]


def synthesize(config: SynthesizeConfig) -> None:
    """Writes `config.output` whole; raises `UserError` where it exists already or cannot be written."""
    try:
        with atomic_output(config.output, config.overwrite, Path.is_file) as scratch:
            catalogue = Catalogue(config)
            _write(config, catalogue, scratch / "result")
            if config.track_features:
                with atomic_output(config.track_features, config.overwrite, Path.is_file) as beside:
                    pq.write_table(_features(config, catalogue), beside / "result")
    except KeyboardInterrupt:
        raise UserError("stopped before the log was whole: nothing was written") from None
    except OSError as error:
        raise UserError(f"{config.output} could not be written ({error.strerror or error}): check the disk") from None


def _features(config: SynthesizeConfig, catalogue: Catalogue) -> pa.Table:
    numbers = np.arange(config.tracks)
    cluster = np.searchsorted(catalogue.starts, numbers, side="right") - 1
    of_track = artists(config.seed, numbers, catalogue.starts)
    return invented_features(config.seed, catalogue.ids, of_track, cluster, catalogue.places)


def _write(config: SynthesizeConfig, catalogue: Catalogue, path: Path) -> None:
    """Streams the sessions to `path` in the format of `config.output`."""
    compression = "gzip" if config.output.suffix == ".gz" else None
    with (
        stage("synthesizing", config.sessions, "sessions") as advance,
        pa.output_stream(str(path), compression=compression) as stream,
        ExitStack() as closing,
    ):
        writer = None
        for first in range(0, config.sessions, SESSIONS_PER_CHUNK):
            count = min(SESSIONS_PER_CHUNK, config.sessions - first)
            table = _rows(catalogue, config, first, count)
            writer = writer or closing.enter_context(_writer(config, stream, table.schema))
            writer.write_table(table)
            advance(count)


def _writer(config: SynthesizeConfig, stream: pa.NativeFile, schema: pa.Schema) -> pq.ParquetWriter | pa.csv.CSVWriter:
    if config.output.suffix == ".parquet":
        return pq.ParquetWriter(stream, schema)
    return pa.csv.CSVWriter(stream, schema, write_options=pa.csv.WriteOptions(quoting_style="none"))


def _listen(
    catalogue: Catalogue, config: SynthesizeConfig, random: np.random.Generator, home: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns tracks and skip strengths [sessions, LONGEST] of listeners, each of a cluster `home`."""
    count = len(home)
    kept = catalogue.draw(random, home)
    track_SL = np.empty((count, LONGEST), dtype=np.int64)
    strength_SL = np.empty((count, LONGEST), dtype=np.int8)
    for position in range(LONGEST):
        branch = random.random(count)
        follow = catalogue.successors[(random.random(count) < 0.25).astype(np.int64), kept]
        elsewhere = (home + random.integers(1, max(config.clusters, 2), size=count)) % config.clusters
        wander = (branch < WANDER) & (config.clusters > 1)
        jump = catalogue.draw(random, np.where(wander, elsewhere, home))
        track_SL[:, position] = track = np.where(branch >= 1 - FOLLOW, follow, jump)
        kind = wander.astype(np.int64)
        skipped, draw = random.random(count) < SKIPPED[kind], random.random(count)
        strength = np.where(skipped, 1 + (draw[:, None] >= STRENGTH_ENDS[kind]).sum(axis=1), 0)
        strength_SL[:, position] = strength
        kept = np.where(~wander & ((strength == 0) | (strength == 3)), track, kept)
    return track_SL, strength_SL


def _planted(
    catalogue: Catalogue, config: SynthesizeConfig, random: np.random.Generator, home: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same of listeners who skip by one rule, at strength 1 or 2 with equal chances.

    Plays are of the listener's cluster, by popularity, unless said otherwise.

    `content`: half of the plays are of any cluster. Tracks have hidden angles, those of a cluster spread evenly over
    the circle, and so has each listener's cluster; P(kept) is the sigmoid of 3 times the cosine between the two. Who
    knows both foresees skips with an AUC of 0.904 (where popularity is uniform).
    `state`: a play is skipped with probability 0.2 after a skipped one, 0.8 after a kept one, 0.5 at first. Tracks tell
    nothing; the last play's flag foresees the next with an AUC of 0.8, and nothing foresees it better.
    `pairs`: a kept track is followed, with probability 0.8, by one of the two baits of the listener's cluster: the
    first tracks of the next cluster, where they are as well liked as others. A bait is skipped with 0.9, any other play
    with 0.1. After a kept track a given bait comes next with probability 0.4 and is the next kept track with 0.04, more
    than any other where clusters are large. Of the pairs of a kept track and a skipped one before it, 0.894 can be in
    order: the skipped one is a bait in 0.788, and the others are even.
    """
    count = len(home)
    track_SL = np.empty((count, LONGEST), dtype=np.int64)
    strength_SL = np.empty((count, LONGEST), dtype=np.int8)
    # Of a play before the first: no bait follows it.
    skipped = (random.random(count) < 0.5) | (config.planted != "state")
    for position in range(LONGEST):
        cluster = home
        if config.planted == "content":
            cluster = np.where(random.random(count) < 0.5, random.integers(config.clusters, size=count), home)
        track = catalogue.draw(random, cluster)
        if config.planted == "content":
            chance = 1 / (1 + np.exp(TASTE * np.cos(catalogue.angles[track] - catalogue.tastes[home])))
        elif config.planted == "state":
            chance = np.where(skipped, 1 - TURNS, TURNS)
        else:
            baited = ~skipped & (random.random(count) < BAIT)
            bait = catalogue.starts[(home + 1) % config.clusters] + random.integers(BAITS, size=count)
            track = np.where(baited, bait, track)
            chance = np.where(baited, BAITED, DRAWN)
        skipped = random.random(count) < chance
        track_SL[:, position] = track
        strength_SL[:, position] = skipped * random.integers(1, 3, size=count)
    return track_SL, strength_SL


def _rows(catalogue: Catalogue, config: SynthesizeConfig, first: int, count: int) -> pa.Table:
    """The plays of `count` sessions from number `first` in MSSD's columns: a function of seed and chunk alone."""
    random = np.random.default_rng([config.seed, 1, first // SESSIONS_PER_CHUNK])
    home = random.integers(config.clusters, size=count)
    lengths = random.integers(SHORTEST, LONGEST + 1, size=count)
    if config.planted == "tastes":
        other = catalogue.draw(random, random.integers(config.clusters, size=count * LONGEST))
        others_SL = other.reshape(count, LONGEST)
        track_SL, strength_SL = play_favourites(random, others_SL, config.tracks, config.seed, first)
    else:
        listen = _listen if config.planted == "none" else _planted
        track_SL, strength_SL = listen(catalogue, config, random, home)
    inside = np.arange(LONGEST) < lengths[:, None]
    strength = strength_SL[inside]
    skipped = strength > 0
    hour = random.integers(24, size=count)
    premium, shuffle = random.random(count) < 0.8, random.random(count) < 0.3
    context = pa.array(CONTEXTS).take(pa.array(random.integers(len(CONTEXTS), size=count)))
    numbers = pc.utf8_lpad(pa.array(np.arange(first, first + count)).cast(pa.string()), 9, "0")
    session, place = np.nonzero(inside)
    tracks = track_SL[inside]
    names = {}
    if config.names:
        different, of_play = np.unique(tracks, return_inverse=True)
        named = {"title": titles(config.seed, different), "artist": artists(config.seed, different, catalogue.starts)}
        names = {name: values.take(pa.array(of_play)) for name, values in named.items()}
    reason_end = np.where(skipped, "fwdbtn", "trackdone")
    reason_start = np.where(place == 0, "clickrow", np.roll(reason_end, 1))
    return pa.table(
        {
            "session_id": pc.binary_join_element_wise("s", numbers, "_").take(pa.array(session)),
            "session_position": place + 1,
            "session_length": lengths[session],
            "track_id_clean": catalogue.ids.take(pa.array(tracks)),
            "skip_1": strength == 1,
            "skip_2": counts_as_skipped(strength),
            "skip_3": skipped,
            "not_skipped": ~skipped,
            "hist_user_behavior_is_shuffle": shuffle[session],
            "hour_of_day": hour[session],
            "premium": premium[session],
            "context_type": context.take(pa.array(session)),
            "hist_user_behavior_reason_start": reason_start,
            "hist_user_behavior_reason_end": reason_end,
            **names,
            **(listener_columns(first, session, place) if config.planted == "tastes" else {}),
        }
    )
