"""Command dispatch: `python -m skipwise COMMAND`, `skipwise COMMAND`, and what `torchx run dist.ddp` starts."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import NamedTuple

from skipwise.common import failure
from skipwise.common.errors import UserError
from skipwise.common.failure import record


class Command(NamedTuple):
    """Where a command lives. Modules are imported on use, so that `prepare` never waits for torch."""

    module: str
    config: str  # empty: the function reads the command line itself
    function: str
    help: str


COMMANDS = {
    "synthesize": Command(
        "datapipes.synthesize", "SynthesizeConfig", "synthesize", "write a synthetic log in MSSD's schema"
    ),
    "prepare": Command("datapipes.prepare", "PrepareConfig", "prepare", "turn raw logs into a dataset directory"),
    "train": Command("components.train", "", "main", "train a recipe: train [RECIPE] [--section.field VALUE ...]"),
    "evaluate": Command("components.evaluate", "EvaluateRunConfig", "evaluate", "measure a run's best weights again"),
    "table": Command("components.table", "StudyConfig", "table", "train models at several seeds and compare them"),
    "report": Command("components.report", "ReportConfig", "report", "write an HTML page on a run, or on two"),
    "sweep": Command("components.sweep", "SweepConfig", "sweep", "search a recipe's settings on validation alone"),
    "export": Command("components.export", "ExportConfig", "export", "write embeddings and encoder for retrieval"),
    "index": Command("components.index", "IndexConfig", "index", "make an export's approximate index"),
    "recommend": Command("components.recommend", "RecommendConfig", "recommend", "rank what to play next for sessions"),
    "similar": Command("components.similar", "SimilarConfig", "similar", "list a track's neighbours in the table"),
    "serve": Command("components.serve", "ServeConfig", "serve", "answer over HTTP from an export, with a page"),
    "show": Command("components.show", "ShowConfig", "show", "print the HR table of a finished run"),
    "doctor": Command("components.doctor", "DoctorConfig", "doctor", "check versions, devices and the sharding plan"),
}


def run(argv: list[str]) -> None:
    """Runs one command line; raises `UserError` for what the user can mend."""
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {name:{width}}  {command.help}" for name, command in COMMANDS.items()]
        print("\n".join(["usage: skipwise COMMAND [--help] ...", "", *lines]))
        return
    if argv[0] not in COMMANDS:
        raise UserError(f"there is no command '{argv[0]}': expected one of {', '.join(COMMANDS)}")
    command = COMMANDS[argv[0]]
    module = importlib.import_module(f"skipwise.{command.module}")
    function = getattr(module, command.function)
    if not command.config:
        function(argv[1:])
        return
    from skipwise.components.cli import parse

    function(parse(getattr(module, command.config), argv[1:], argv[0]))


def guarded(program: Callable[[list[str]], None], argv: list[str]) -> None:
    """Ends the process as a command should: exit code 0, 2 with one sentence on stderr, 130 after ctrl-C, or 141 where
    nobody reads on."""
    # Read when torch is loaded. Without it OpenMP's threads spin for milliseconds on a core that another process
    # needs (its own data worker, say): measured 20 times slower there, and no faster on idle cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if failure.refused_before():
        # The launcher restarts ranks whatever they died of, and what the user must mend is still as it was.
        sys.exit(2)
    try:
        program(argv)
        sys.stdout.flush()
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"skipwise: {error}", file=sys.stderr)
        record(f"skipwise: {error}", refused=True)
        failure.wait_for_rank_0()
        sys.exit(2)
    except KeyboardInterrupt:
        print("skipwise: stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever read our output, `head` perhaps, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except SystemExit as stop:
        if stop.code:
            failure.wait_for_rank_0()
        raise
    except Exception as error:
        record(f"{type(error).__name__}: {error}")
        raise


def main() -> None:
    """The console script."""
    guarded(run, sys.argv[1:])


if __name__ == "__main__":
    main()
