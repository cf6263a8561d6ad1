"""The options of `prepare` that say what is known of each track, for models to read."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

MOST_FEATURES = 64
"""Columns of tracks that a dataset may have for models."""


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """What is known of each track beside its plays, for models to read (--data.features)."""

    track_features: Path | None = None
    """A table with one row a track (.csv, .tsv or .parquet): its id in --track's column or in `track_id`, and columns
    of numbers, of categories or lists of them, and of vectors (lists of numbers). Its tracks that the log lacks get
    rows too."""
    features: tuple[str, ...] = ()
    """Columns to take, by default all. Without --track-features: of what --title, --artist and --keep-track name."""
    feature_values: tuple[str, ...] = ()
    """Columns whose numbers stand for categories, such as the number of a genre."""
    feature_separator: str | None = None
    """What stands between several values of one text, such as `|`; by default a text is one value."""

    @property
    def reads_features(self) -> bool:
        """Whether the dataset gets features."""
        return self.track_features is not None or bool(self.features)

    def check_features(self, named: Collection[str]) -> None:
        """Raises `ValueError` for options that do not fit each other; `named`: columns that the dataset names."""
        if self.features and not self.track_features and (other := {*self.features} - {*named}):
            raise ValueError(
                f"--features {min(other)} is no column that the dataset names: give its table by --track-features, or "
                "name it with --title, --artist or --keep-track"
            )
        if not self.reads_features and (self.feature_values or self.feature_separator is not None):
            raise ValueError("--feature-values and --feature-separator apply to --track-features: name that table")
        if not self.track_features and (other := {*self.feature_values} - {*self.features}):
            raise ValueError(f"--feature-values {min(other)} is not among --features: name it there, or leave it out")
        if self.feature_separator == "":
            raise ValueError("--feature-separator must be at least one character: leave it out for one value a text")
        for name, given in (("--features", self.features), ("--feature-values", self.feature_values)):
            if repeated := next((one for at, one in enumerate(given) if one in given[:at]), None):
                raise ValueError(f"{name} names '{repeated}' twice: name it once")
        if len(self.features) > MOST_FEATURES:
            raise ValueError(f"--features names {len(self.features)} columns: name at most {MOST_FEATURES}")
