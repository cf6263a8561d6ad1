"""Skip rates of a log that is counted by hand, with context columns."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skipwise.common.errors import UserError
from skipwise.datapipes.manifest import SESSIONS, Manifest
from skipwise.datapipes.sessions import SessionStore
from skipwise.studies.audit import skip_rates
from skipwise.studies.audit.skip_rates import SkipRates, read_with_contexts
from skipwise.studies.statistics import interval, per_session

# Training sees all but the last two plays.
LOG = [([0, 1, 2, 3, 4], [0, 1, 3, 2, 2]), ([1, 2, 3], [2, 0, 0]), ([0, 1, 2, 3], [1, 2, 0, 1])]
KINDS = [["radio", "radio", None, "x", "x"], ["album", "x", "x"], ["radio", "album", "x", "x"]]


def with_context(data, values, column: str = "kind"):
    for file in sorted((data / SESSIONS).iterdir()):
        table = pq.read_table(file)
        part, values = values[: len(table)], values[len(table) :]
        pq.write_table(table.append_column(column, pa.array(part)), file, row_group_size=2)
    manifest = Manifest.read(data)
    manifest.model_copy(update={"context_columns": [column]}).write(data)
    return data


def rates_of(data):
    store = SessionStore(str(data))
    rates = SkipRates(store.manifest.context_columns)
    for plays, contexts in read_with_contexts(store):
        rates.add(plays, contexts)
    return rates.figures()


def test_rates_by_hand(make_dataset):
    figures = rates_of(with_context(make_dataset(LOG, 5, 2), KINDS))
    assert (figures["all"]["share"], figures["all"]["plays"], figures["all"]["sessions"]) == (4 / 6, 6, 3)
    assert {name: row["share"] for name, row in figures["strength"].items()} == pytest.approx(
        {"0": 1 / 6, "1": 2 / 6, "2": 2 / 6, "3": 1 / 6}
    )
    positions = {name: (row["share"], row["plays"]) for name, row in figures["position"].items()}
    assert positions == {"1": (2 / 3, 3), "2": (1, 2), "3": (0, 1)}
    kinds = {name: (row["share"], row["plays"], row["sessions"]) for name, row in figures["context"]["kind"].items()}
    assert kinds == {"radio": (2 / 3, 3, 2), "album": (1, 2, 2), "not known": (0, 1, 1)}
    assert list(kinds) == ["radio", "album", "not known"]


def test_intervals_are_those_of_whole_sessions(make_dataset):
    figures = rates_of(make_dataset(LOG * 20, 5))
    flags = [0, 1, 0, 1, 1, 1] * 20
    session = [number for turn in range(20) for number in (3 * turn,) * 3 + (3 * turn + 1,) + (3 * turn + 2,) * 2]
    expected = interval(per_session(pa.array(flags).to_numpy().astype(float), pa.array(session).to_numpy()))
    assert (figures["all"]["low"], figures["all"]["high"]) == pytest.approx(expected)


def test_only_the_values_with_most_plays_are_shown(make_dataset, monkeypatch):
    monkeypatch.setattr(skip_rates, "TOP_VALUES", 1)
    assert list(rates_of(with_context(make_dataset(LOG, 5), KINDS))["context"]["kind"]) == ["radio"]


def test_numbers_are_values_too(make_dataset):
    hours = [[hour] * len(tracks) for hour, (tracks, _) in zip((9, 23, 9), LOG, strict=True)]
    figures = rates_of(with_context(make_dataset(LOG, 5), hours, "hour_of_day"))
    assert {name: row["plays"] for name, row in figures["context"]["hour_of_day"].items()} == {"9": 5, "23": 1}


def test_a_column_of_another_length_is_refused(make_dataset):
    data = with_context(make_dataset(LOG, 5), [["radio"]] * 3)
    with pytest.raises(UserError, match="a context column is not as long as the tracks.*run prepare again"):
        rates_of(data)
