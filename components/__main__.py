"""Command dispatch: `skipwise COMMAND`, `python -m skipwise COMMAND`, and what `torchx run dist.ddp` starts."""

import importlib
import os
import platform
import shlex
import sys
from collections.abc import Callable
from typing import get_type_hints

from skipwise.common import failure
from skipwise.common.errors import UserError, printable, shown
from skipwise.common.machine import process_memory
from skipwise.common.out_of_memory import is_out_of_memory, shortage

COMMANDS = {
    "synthesize": "write a synthetic log in MSSD's schema",
    "prepare": "turn raw logs into a dataset directory",
    "audit": "say what a dataset's skips predict, or whether learning from them pays",
    "train": "train a recipe",
    "evaluate": "measure a run's best weights again",
    "table": "train models at several seeds and compare them",
    "report": "write an HTML page on one run or two",
    "sweep": "search a recipe's settings on the validation split",
    "export": "write a run's embeddings and encoder for retrieval",
    "push": "put an export's embeddings into Qdrant or PostgreSQL",
    "index": "build an export's approximate index",
    "recommend": "rank the tracks to play next in sessions",
    "find": "search an export's tracks by title and artist",
    "similar": "list the tracks nearest to a track",
    "serve": "answer over HTTP from an export, with a web page",
    "show": "print a run's hit rates, compare runs, or say what a dataset holds",
    "doctor": "check versions, devices, memory and the sharding plan",
}
"""Each is the module `components.NAME` with a function `NAME(config)`. A module is imported when its command is run,
and imports what it needs once its command line is read: `--help` and refusals never wait for torch."""
_LEAST_ROOM = 1_400_000_000
"""Bytes of address space that the libraries of most commands take."""
_LESS_MEMORY = {
    **dict.fromkeys(
        ("train", "table", "sweep"),
        "use more machines, or a smaller data.batch_size, encoder.max_length, evaluate.batch_size or table.dim",
    ),
    **dict.fromkeys(("evaluate", "export"), "use more machines, or one with more memory"),
    "prepare": "use a smaller --memory, which leaves more to the rest of the process",
    "recommend": "use a smaller --batch",
}
_USAGE = """usage: skipwise COMMAND [OPTIONS]

{commands}

`skipwise COMMAND --help` has a command's options and an example.

train, evaluate, table, sweep and export run on several ranks through TorchX, in a clone:
  torchx run dist.ddp -j 1x4 COMMAND [OPTIONS]
  torchx run components/launch.py:JOB [JOB'S OPTIONS] -- [OPTIONS]
JOB is train, evaluate, table, sweep or prepare; `torchx run components/launch.py:JOB --help`
has its options."""


def run(argv: list[str]) -> None:
    """Runs one command line; raises `UserError` for what the user can correct."""
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print(_USAGE.format(commands="\n".join(f"  {name:{width}}  {text}" for name, text in COMMANDS.items())))
        return
    name, words = argv[0], argv[1:]
    if name not in COMMANDS:
        raise UserError(f"there is no command {shown(name)}: expected one of {', '.join(COMMANDS)}")
    room = process_memory()
    if room is not None and room < _LEAST_ROOM and name not in ("show", "doctor"):
        # Libraries that find no address space as they are loaded end the process by a signal, or wait without end.
        raise UserError(
            f"the limit of this process (ulimit -v or -d) leaves {room / 1e9:.1f} GB, and {name} needs at least "
            f"{_LEAST_ROOM / 1e9:.1f} GB: raise it, or limit memory by a control group"
        )
    module = importlib.import_module(f"skipwise.components.{name}")
    if name == "train":
        module.main(words)  # a recipe and a file come before its options
        return
    from skipwise.components.cli import parse

    command = getattr(module, name)
    config_class = get_type_hints(command, include_extras=True)["config"]
    command(parse(config_class, words, f"skipwise {name}", description=module.__doc__))


def guarded(program: Callable[[list[str]], None], argv: list[str]) -> None:
    """Ends the process as a command should: exit code 0, 2 with one sentence on stderr, 130 after ctrl-C, or 141 where
    nobody reads on."""
    if failure.refused_before():
        # torchrun restarts ranks whatever the reason, and what the user must correct has not changed.
        sys.exit(2)
    try:
        program(argv)
        sys.stdout.flush()
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"skipwise: {error}", file=sys.stderr)
        failure.record(f"skipwise: {error}", refused=True)
        failure.wait_for_rank_0()
        sys.exit(2)
    except KeyboardInterrupt:
        print("skipwise: stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output, `head` for example, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except SystemExit as stop:
        if stop.code == 2:  # a command line that tyro has refused, in its own words
            failure.record(f"skipwise: the command line `{shlex.join(argv)}` was refused", refused=True)
        if stop.code:
            failure.wait_for_rank_0()
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            failure.record(f"{type(error).__name__}: {error}")
            raise
        who = f"rank {os.environ['RANK']} of {platform.node()}" if "RANK" in os.environ else "this process"
        way = _LESS_MEMORY.get(argv[0] if argv else "", "use a machine with more memory, or end what else runs on it")
        sentence = printable(f"skipwise: {who} is out of memory ({shortage(error)}): {way}")
        print(sentence, file=sys.stderr, flush=True)
        failure.record(sentence)
        sys.exit(1)


def main() -> None:
    """The console script."""
    guarded(run, sys.argv[1:])


if __name__ == "__main__":
    main()
