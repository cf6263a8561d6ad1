"""What an export's `manifest.json` says of skips: how the encoder reads them, and what the keep head does."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from skipwise.common.schema import Count, PositiveCount, StrictModel
from skipwise.datapipes.signals import SignalColumn
from skipwise.models.config import MAX_DIAL

DialSetting = Annotated[float, Field(ge=0, le=MAX_DIAL)]
Share = Annotated[float, Field(ge=0, le=1)]


class SignalEntry(StrictModel):
    """A column of what the encoder reads of a play beside its track."""

    name: str
    values: list[str]
    first_row: Count
    """The row of what is not known; those of the values follow."""

    @classmethod
    def of(cls, column: SignalColumn) -> "SignalEntry":
        """What the model has of a column."""
        return cls(name=column.name, values=list(column.values), first_row=column.first_row)


class ExamplePlay(StrictModel):
    """A play of an example session."""

    row: Count
    skipped: bool | None
    """None: it is not known."""


class DialPoint(StrictModel):
    """What a ranking at one setting of the dial was measured to do, by the rules of `served`."""

    dial: DialSetting
    hr_at_10: Share
    kept_hr_at_10: Share | None
    """Of targets that the listener kept; None where there was none."""
    skipped_hr_at_10: Share | None
    pairs_in_order: Share | None
    """Of pairs of a kept track and a skipped one before it; None without any."""
    skip_rate: Share
    """Mean of 1 - P(kept) of the ten tracks that are recommended."""
    gain: Annotated[list[float], Field(min_length=3, max_length=3)] | None = None
    """Over dial 0: pairs in order, or where there are none HR@10 of kept less that of skipped targets, with the 95 %
    interval over sessions, paired; None at 0, where nothing can be gained, and in older exports."""


class KeepEntry(StrictModel):
    """The keep head: the last `dim` numbers of an embedding are its own, and the encoder gives as many and one more."""

    dim: PositiveCount
    dial: DialSetting
    """What `auto` stands for: of the settings of `curve` that surely gain (the interval of `gain` lies above 0) and
    cost at most 0.003 of HR@10, the one that gains most; 0 where there is none (docs/recommend.md)."""
    curve: list[DialPoint]
    """By rising setting, from 0 on."""
    targets: Count
    """Of each point."""
    split: Literal["validation", "test"]
    """Whose sessions: the validation's, or the test's of a run whose weights were trained on the validation targets."""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        settings = [point.dial for point in self.curve]
        if settings[:1] != [0] or settings != sorted(set(settings)) or self.dial not in settings:
            raise ValueError("a curve of rising settings from 0 on, and one of them as its dial")
        return self
