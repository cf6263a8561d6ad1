"""Jobs as TorchX AppDefs. TorchX cannot list the jobs of a file; they are:

- `torchx run components/launch.py:train`: trains a recipe on several ranks
- `torchx run components/launch.py:evaluate`: evaluates a run on several ranks
- `torchx run components/launch.py:table`: trains and compares models at several seeds
- `torchx run components/launch.py:sweep`: searches a recipe's settings
- `torchx run components/launch.py:prepare`: turns raw logs into a dataset directory, in one process or in shards

Each lists its options with `--help`. What follows `--` goes to the command itself:
`torchx run components/launch.py:train --nproc 4 -- --data.path data/sample`. Nothing here imports torch.
"""

import inspect
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torchx
import torchx.components.dist as dist
import torchx.specs as specs

_MOST_SHARDS = 4096  # of `ShardOptions`, which would load the package
_RANK_MB = 4096  # TorchX would ask for 1024 a node: less than the packages and a small table take


def _ranks(
    command: str,
    args: Sequence[str],
    *,
    nproc: int = 4,
    nodes: int = 1,
    gpu: int = 0,
    cpu: int = 0,
    memory_mb: int = 0,
    max_retries: int = 0,
    image: str = torchx.IMAGE,
    mounts: str = "",
) -> specs.AppDef:
    _at_least(1, nproc=nproc, nodes=nodes)
    _at_least(0, gpu=gpu, cpu=cpu, memory_mb=memory_mb, max_retries=max_retries)
    return dist.ddp(
        command,
        *args,
        m="skipwise",
        name=f"skipwise-{command}",
        j=f"{nodes}x{nproc}",
        gpu=gpu,
        cpu=cpu or nproc,
        memMB=memory_mb or _RANK_MB * nproc,
        image=image,
        mounts=_mounts(mounts),
        tee=0,
        max_retries=max_retries,
        # torchrun reads options from PET_*: it restarts the ranks itself, sooner than a scheduler would.
        env={
            "LOGLEVEL": "ERROR",
            "BASH_ENV": "components/torchrun.bash",
            "PET_MAX_RESTARTS": str(max_retries),
        },
    )


def _mounts(mounts: str) -> list[str]:
    """The words that TorchX takes; ends with a sentence for what it cannot read."""
    words = mounts.split(",") if mounts else []
    try:
        specs.parse_mounts(words)
    except (KeyError, ValueError):
        _refuse(f"--mounts {mounts}: expected type=bind,src=/data,dst=/data, several in turn")
    return words


def _at_least(least: int, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < least:
            _refuse(f"--{name} {number}: expected at least {least}")


def _refuse(sentence: str) -> NoReturn:
    """TorchX would print the traceback of an exception."""
    print(f"skipwise: {sentence}", file=sys.stderr)
    sys.exit(2)


def _on_ranks(what: str) -> Callable[[Callable[..., specs.AppDef]], Callable[..., specs.AppDef]]:
    """Gives a job on several ranks the options of `_ranks`, of which TorchX makes `--help` and reads a command line."""

    def documented(job: Callable[..., specs.AppDef]) -> Callable[..., specs.AppDef]:
        own, shared = (inspect.signature(one).parameters.values() for one in (job, _ranks))
        options = [one for one in own if one.kind is not one.VAR_KEYWORD]
        options += [one for one in shared if one.kind is one.KEYWORD_ONLY]
        job.__signature__ = inspect.signature(job).replace(parameters=options)  # type: ignore[attr-defined]
        job.__doc__ = f"""{what}, on `nodes` x `nproc` ranks.

        Args:
            args: options of `skipwise {job.__name__}`, after `--`
            recipe: name of the recipe to start from; empty for the default one
            nproc: ranks on each node; on GPU one for each card
            nodes: number of nodes
            gpu: GPUs to ask of the scheduler for each node
            cpu: cores to ask for on each node; 0 for one a rank
            memory_mb: memory to ask for on each node, in MB; 0 for 4096 a rank, see `skipwise doctor`
            max_retries: how often the ranks are started again after one has died
            image: container image, where the scheduler runs containers
            mounts: what a container sees of its host, such as type=bind,src=/data,dst=/data; several follow each other
        """
        return job

    return documented


@_on_ranks("Trains a recipe")
def train(*args: str, recipe: str = "", **asked: Any) -> specs.AppDef:
    return _ranks("train", [recipe, *args] if recipe else args, **asked)


@_on_ranks("Evaluates a run")
def evaluate(*args: str, **asked: Any) -> specs.AppDef:
    return _ranks("evaluate", args, **asked)


@_on_ranks("Trains and compares models at several seeds")
def table(*args: str, **asked: Any) -> specs.AppDef:
    return _ranks("table", args, **asked)


@_on_ranks("Searches a recipe's settings, one trial after the other")
def sweep(*args: str, **asked: Any) -> specs.AppDef:
    return _ranks("sweep", args, **asked)


def prepare(
    *args: str,
    shards: int = 1,
    cpu: int = 2,
    memory_mb: int = 4096,
    max_retries: int = 0,
    image: str = torchx.IMAGE,
    mounts: str = "",
) -> specs.AppDef:
    """Turns raw logs into a dataset directory, in one process or in shards.

    Args:
        args: options of `skipwise prepare`, after `--`
        shards: processes that share the work and wait for each other, which all see the log and the output
        cpu: cores to ask of the scheduler, for each shard
        memory_mb: memory to ask of the scheduler, in MB, for each shard
        max_retries: how often it is started again after it has died; what shards have done is not done again
        image: container image, where the scheduler runs containers
        mounts: what a container sees of its host, such as type=bind,src=/data,dst=/data; several follow each other
    """
    _at_least(1, shards=shards, cpu=cpu, memory_mb=memory_mb)
    _at_least(0, max_retries=max_retries)
    if shards > _MOST_SHARDS:
        _refuse(f"--shards {shards}: expected at most {_MOST_SHARDS}, which is what prepare --shard takes")
    entrypoint, words = "python", ["-m", "skipwise", "prepare", *args]
    if shards > 1:  # AWS Batch has the number of a replica in a variable, which a shell reads
        shard = f"--step all --shard {specs.macros.replica_id}/{shards}"
        entrypoint, words = "bash", ["-c", f"exec python {shlex.join(words)} {shard}"]
    return specs.AppDef(
        name="skipwise-prepare",
        roles=[
            specs.Role(
                name="prepare",
                image=image,
                entrypoint=entrypoint,
                args=words,
                num_replicas=shards,
                resource=specs.Resource(cpu=cpu, gpu=0, memMB=memory_mb),
                max_retries=max_retries,
                mounts=specs.parse_mounts(_mounts(mounts)),
            )
        ],
    )
