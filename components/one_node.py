"""torchrun for ranks of one node, whose stores listen on the loopback interface alone; `torchrun.bash` runs it.

torchrun unpickles keys of its store. torch's TCPStore listens on all interfaces, unless it is given a socket.
"""

import signal
import socket
import sys
from typing import Any

LOOPBACK = "127.0.0.1"


def main() -> None:
    """torchrun with the words of the command line."""
    import torch.distributed as dist

    class LoopbackStore(dist.TCPStore):  # type: ignore[name-defined]
        def __init__(self, host_name: str, port: int, *options: Any, is_master: bool = False, **more: Any) -> None:
            if is_master:
                listening = socket.create_server((LOOPBACK, port))
                host_name, port = listening.getsockname()
                more["master_listen_fd"] = listening.detach()
            super().__init__(host_name, port, *options, is_master=is_master, **more)

    dist.TCPStore = LoopbackStore  # type: ignore[attr-defined]
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun  # imported now, as it takes the class by that name

    try:
        torchrun(["--local-addr", LOOPBACK, *sys.argv[1:]])
    except SignalException as stop:  # the ranks were given it too, and have ended
        print(f"skipwise: stopped by {stop.sigval.name}", file=sys.stderr)
        sys.exit(128 + stop.sigval)
    except ChildFailedError as error:
        for rank in sorted(rank for rank, failed in error.failures.items() if failed.exitcode == -signal.SIGKILL):
            print(
                f"skipwise: rank {rank} was killed by the system (exit code -9), as a rule for memory: use more "
                "machines, raise the limit of its container, or lower data.batch_size, encoder.max_length or "
                "table.dim",
                file=sys.stderr,
            )
        raise


if __name__ == "__main__":
    main()
