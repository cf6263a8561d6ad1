"""`python -m skipwise.benchmarks NAME [--option VALUE ...]`, alone or on the ranks that torchrun starts."""

import importlib
import sys

from skipwise.benchmarks.harness import config
from skipwise.benchmarks.harness.gpu_sections import GpuCheckConfig
from skipwise.benchmarks.harness.operator_cases import OperatorsConfig
from skipwise.benchmarks.harness.scale_cases import ScaleConfig
from skipwise.common.errors import UserError, shown
from skipwise.components.__main__ import guarded
from skipwise.components.cli import parse

PROGRAM = "python -m skipwise.benchmarks"
BENCHMARKS: dict[str, type] = {
    "step": config.StepConfig,
    "operators": OperatorsConfig,
    "scale": ScaleConfig,
    "pipeline": config.PipelineConfig,
    "peers": config.PeersConfig,
    "evaluate": config.EvaluateConfig,
    "export": config.ExportBenchmarkConfig,
    "index": config.IndexBenchmarkConfig,
    "checkpoint": config.CheckpointBenchmarkConfig,
    "serve": config.ServeBenchmarkConfig,
    "compare": config.CompareConfig,
    "gpu-check": GpuCheckConfig,
}
"""Each is the module `skipwise.benchmarks.NAME`, imported late for a fast `--help`; its `measure(config)` returns a
`Report` (those of `compare` and `gpu-check` print)."""


def run(argv: list[str]) -> None:
    """Runs one command line; raises `UserError` for what the user can correct."""
    if not argv or argv[0] in ("-h", "--help"):
        lines = [f"  {name:10}  {(one.__doc__ or '').splitlines()[0]}" for name, one in BENCHMARKS.items()]
        usage = f"usage: {PROGRAM} NAME [OPTIONS]"
        print("\n".join([usage, "", *lines, "", f"`{PROGRAM} NAME --help` has a benchmark's options and an example."]))
        return
    name, words = argv[0], argv[1:]
    if name not in BENCHMARKS:
        raise UserError(f"there is no benchmark {shown(name)}: expected one of {', '.join(BENCHMARKS)}")
    options: object = parse(BENCHMARKS[name], words, f"{PROGRAM} {name}")
    measure = importlib.import_module(f"skipwise.benchmarks.{name.replace('-', '_')}").measure
    if name in ("compare", "gpu-check"):
        measure(options)
    else:
        importlib.import_module("skipwise.benchmarks.harness.benchmark_report").measure_and_write(measure, options)


if __name__ == "__main__":
    guarded(run, sys.argv[1:])
