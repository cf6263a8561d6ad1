"""`python -m skipwise.benchmarks NAME [--option VALUE ...]`, alone or on the ranks that torchrun starts."""

import importlib
import sys
from typing import NamedTuple

from skipwise.common.errors import UserError
from skipwise.components.__main__ import guarded
from skipwise.components.cli import parse


class Benchmark(NamedTuple):
    """Where a benchmark lives: its module has a `CONFIG` dataclass and a function `measure` of it."""

    module: str
    help: str


BENCHMARKS = {
    "step": Benchmark("benchmarks.step", "one training step, its parts, the plain baseline and the machine's floor"),
    "scale": Benchmark("benchmarks.scale", "the training step over table sizes and batch sizes, with fitted costs"),
    "lookup": Benchmark("benchmarks.lookup", "EmbeddingBagCollection, EmbeddingCollection and nn.Embedding, one-hot"),
    "pipeline": Benchmark("benchmarks.pipeline", "sessions/s from Parquet, and what a training step waits for them"),
    "peers": Benchmark("benchmarks.peers", "RePlay and RecTools on the same work, in environments of their own"),
    "evaluate": Benchmark("benchmarks.evaluate", "users ranked per second, uniform and exact full, against plain"),
    "export": Benchmark("benchmarks.export", "GB/s of the export for retrieval, against numpy.save"),
    "steering": Benchmark("benchmarks.steering", "what steering away from skipped tracks does to HR@K, by strength"),
    "index": Benchmark("benchmarks.index", "queries/s of each kind of index, against the exact search"),
    "checkpoint": Benchmark("benchmarks.checkpoint", "the pause for a checkpoint, its writing and reading"),
    "serve": Benchmark("benchmarks.serve", "milliseconds of a recommendation over HTTP under 100 requests a second"),
    "compare": Benchmark(
        "benchmarks.harness.compare", "compare A.json B.json: exit code 1 where B is slower beyond the noise"
    ),
}


def run(argv: list[str]) -> None:
    """Runs one command line; raises `UserError` for what the user can mend."""
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, BENCHMARKS))
        lines = [f"  {name:{width}}  {benchmark.help}" for name, benchmark in BENCHMARKS.items()]
        print("\n".join(["usage: python -m skipwise.benchmarks NAME [--help] ...", "", *lines]))
        return
    if argv[0] not in BENCHMARKS:
        raise UserError(f"there is no benchmark '{argv[0]}': expected one of {', '.join(BENCHMARKS)}")
    module = importlib.import_module(f"skipwise.{BENCHMARKS[argv[0]].module}")
    module.measure(parse(module.CONFIG, argv[1:], f"python -m skipwise.benchmarks {argv[0]}"))


if __name__ == "__main__":
    guarded(run, sys.argv[1:])
