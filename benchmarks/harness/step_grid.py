"""Many cases of `step` in one process, which imports once and makes the batches of one size once.

`python -m skipwise.benchmarks.harness.step_grid FILE`: each line of the file has the options of one case, whose
`--json` gets its report, or why there is none. Exit code 1 where a case failed; none follows an error of CUDA.
"""

import gc
import sys
import traceback
from pathlib import Path

import torch

from skipwise.benchmarks.harness.benchmark_report import write
from skipwise.benchmarks.harness.config import StepConfig
from skipwise.benchmarks.step import measure
from skipwise.common.distributed import process_group
from skipwise.common.files import read_text, write_json
from skipwise.components.cli import parse


def measure_all(lines: list[str]) -> int:
    """How many of the cases failed."""
    cases = [parse(StepConfig, line.split(), "step") for line in lines]
    failed = 0
    with process_group():
        for line, case in zip(lines, cases, strict=True):
            print(f"step {line}", flush=True)
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()  # a case's peak is its own
            try:
                write(measure(case), case)
            except Exception as error:
                traceback.print_exc()
                failed += 1
                write_json(Path(case.report.json), {"failed": f"{type(error).__name__}: {error}"[:500]})
                if "CUDA error" in str(error):
                    return failed  # the process is of no further use
            gc.collect()  # a model is part of reference cycles
            torch.cuda.empty_cache()
    return failed


if __name__ == "__main__":
    sys.exit(bool(measure_all(read_text(Path(sys.argv[1]), "options of cases", 1 << 20).splitlines())))
