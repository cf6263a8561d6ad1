"""A log in which the pause before a play says what comes after it: a model that reads pauses finds it."""

import csv
import random
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from skipwise.common.distributed import process_group
from skipwise.datapipes.prepare import PrepareConfig, prepare
from skipwise.datapipes.sessions import SessionStore
from skipwise.training.build import HeldOut, reading_inputs
from tests.training.test_planted import config_of, trained

HALF = 10


def test_the_pause_before_a_play_tells_what_follows(tmp_path: Path):
    """After a pause of some minutes the next track is any of one half of all, otherwise of the other half; half of the
    pauses are long, so that without them its ten first tracks hold the next one half the time."""
    draw, rows = random.Random(0), []
    for user in range(300):
        track, when = draw.randrange(2 * HALF), datetime(2026, 1, 1) + timedelta(hours=user)
        for _ in range(8):
            paused = draw.random() < 0.5
            when += timedelta(seconds=draw.randint(120, 900) if paused else draw.randint(1, 20))
            rows.append((f"u{user}", f"t{track}", when.isoformat()))
            track = HALF * paused + draw.randrange(HALF)
    with (tmp_path / "log.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("user", "track", "time"), *rows])
    columns = {"session": "user", "track": "track", "order": "time", "split": "session", "pause": True}
    prepare(PrepareConfig(input=(tmp_path / "log.csv",), output=tmp_path / "data", **columns))
    hits = {}
    for name, inputs in (("read", ("pause",)), ("not read", ())):
        options = {"inputs": inputs, "batch_size": 32, "negatives": 10}
        config = config_of("best-skip-blind", str(tmp_path / "data"), options, {})
        config = replace(config, encoder=replace(config.encoder, track_dropout=0.0))
        with process_group():
            store = reading_inputs(config, SessionStore(config.data.path))
            held_out = HeldOut.of(replace(config.evaluate, positions="last"), store, "test")
            found = trained(config, store, 5).measure(("full",), "test", held_out, 0)
            hits[name] = found["full"]["hr@10"]
    assert hits["read"] > 0.9 and hits["not read"] < 0.7, hits
