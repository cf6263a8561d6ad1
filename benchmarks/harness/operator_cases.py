"""The options of `operators`: which training steps it counts."""

from dataclasses import dataclass, field
from typing import Annotated, cast, get_args

import tyro

from skipwise.benchmarks.harness.config import LANES, Negatives, Precision, ReportConfig, StepConfig


@dataclass(frozen=True, kw_only=True)
class OperatorsConfig:
    """Count the operators, products and bytes of training steps: figures without a clock, for a test to compare.

    Example: python -m skipwise.benchmarks operators --cases best:fp32:shared:20
    """

    cases: tuple[str, ...] = (
        "unidir-skip-track:fp32:shared:20",
        "unidir-skip-track:bf16:shared:20",
        "unidir-skip-track:fp32:per-session:20",
        "best:fp32:shared:20",
        "best:fp32:shared:200",
    )
    """Each RECIPE:PRECISION:NEGATIVES:LENGTH, as the options of `step`."""
    report: Annotated[ReportConfig, tyro.conf.arg(name="")] = field(default_factory=ReportConfig)

    def __post_init__(self) -> None:
        if not self.cases or len(set(self.cases)) < len(self.cases):
            raise ValueError("--cases must name at least one, and none twice")
        for case in self.cases:
            self.step(case)  # refuses what is none

    def step(self, case: str) -> StepConfig:
        """The options of `step` for one case; raises `ValueError` for what is none."""
        recipe, precision, negatives, length = [*case.split(":"), *[""] * 4][:4]
        if (
            case.count(":") != 3
            or precision not in get_args(Precision)
            or negatives not in get_args(Negatives)
            or not length.isdigit()
        ):
            raise ValueError(
                f"--cases {case}: expected RECIPE:PRECISION:NEGATIVES:LENGTH, such as best:fp32:shared:20, with "
                f"{' or '.join(get_args(Precision))} and {' or '.join(get_args(Negatives))}"
            )
        return StepConfig(
            recipe=recipe,
            precision=cast(Precision, precision),
            negatives=cast(Negatives, negatives),
            length=int(length),
            batch=LANES,
            tracks=5000,
            dim=32,
            baseline="none",
        )
