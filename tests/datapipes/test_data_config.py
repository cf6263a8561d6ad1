"""What the settings of the data pipe may be."""

import pytest

from skipwise.datapipes.config import DataConfig


@pytest.mark.parametrize(
    ("field", "least", "most"),
    [
        ("batch_size", 1, 2**20),
        ("negatives", 0, 2**63 - 1),
        ("lanes", 1, 2**20),
        ("shuffle_groups", 1, 2**63 - 1),
        ("workers", 0, 1024),
        ("prefetch", 1, 2**16),
    ],
)
def test_the_bounds_are_taken_and_what_lies_beyond_them_is_refused(field: str, least: int, most: int):
    others = {"lanes": 1} if field == "batch_size" else {"batch_size": 2**20}
    for value in (least, most):
        assert getattr(DataConfig(**others | {field: value}), field) == value
    for value in (least - 1, most + 1):
        with pytest.raises(ValueError, match=f"--data.{field.replace('_', '-')} {value} must lie in {least}..{most}$"):
            DataConfig(**others | {field: value})


@pytest.mark.parametrize(("skip_negatives", "borrowed"), [("own", 0), ("other", 6)])
def test_skips_are_borrowed_within_a_lane(skip_negatives: str, borrowed: int):
    assert DataConfig(batch_size=24, lanes=4, skip_negatives=skip_negatives).borrow_from == borrowed
