"""Two nodes on this machine: a network namespace each, with names, process numbers and folders of their own.

Needs root, and iproute2 and util-linux: `apt-get install iproute2`.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOST = "10.77.0.1"
"""This machine's address in the network of the nodes."""
_BRIDGE = "skipwise0"


def available() -> bool:
    """Whether this machine lets us make namespaces and a bridge."""
    if os.getuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "bash"))):
        return False
    tried = subprocess.run(["ip", "link", "add", f"{_BRIDGE}t", "type", "bridge"], capture_output=True)
    if tried.returncode == 0:
        subprocess.run(["ip", "link", "del", f"{_BRIDGE}t"])
    return tried.returncode == 0


@contextmanager
def network() -> Iterator[None]:
    """The nodes 1 and 2, which reach each other and this machine, for the time of the block."""

    def ip(words: str, check: bool = True) -> None:
        subprocess.run(["ip", *words.split()], check=check, capture_output=not check)

    def clean(check: bool) -> None:
        for number in (1, 2):
            ip(f"link del skipwise{number}a", check)
            ip(f"netns del skipwise-{number}", check)
        ip(f"link del {_BRIDGE}", check)

    clean(check=False)  # what a killed test has left
    ip(f"link add {_BRIDGE} type bridge")
    ip(f"addr add {HOST}/24 dev {_BRIDGE}")
    ip(f"link set {_BRIDGE} up")
    for number in (1, 2):
        ip(f"netns add skipwise-{number}")
        ip(f"link add skipwise{number}a type veth peer name eth0 netns skipwise-{number}")
        ip(f"link set skipwise{number}a master {_BRIDGE} up")
        ip(f"-n skipwise-{number} addr add {address(number)}/24 dev eth0")
        ip(f"-n skipwise-{number} link set eth0 up")
        ip(f"-n skipwise-{number} link set lo up")
    try:
        yield
    finally:
        clean(check=True)


def address(number: int) -> str:
    return f"{HOST}{number}"


class Node:
    """torchrun on one of the nodes, as `components/torchrun.bash` starts it."""

    def __init__(
        self, number: int, nodes: str, words: str, folder: Path, environment: Mapping[str, str], tries: int = 0
    ):
        """`nodes`: what follows --nnodes; `words`: of skipwise, run in `folder`; the first node keeps the meeting."""
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "log"
        torchrun = (
            f"torchrun --nnodes {nodes} --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint {address(1)}:29500 "
            f"--rdzv-id job --local-addr {address(number)} --rdzv-conf last_call_timeout=3,keep_alive_interval=1 "
            f"--max-restarts {tries} -m skipwise {words}"
        )
        names = "".join(f"{address(each)} node-{each}\n" for each in (1, 2))
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        own_names = f"hostname node-{number}; mount --bind hosts /etc/hosts; mount --bind /dev/null /etc/resolv.conf"
        script = f"{own_names}; . {ROOT}/components/torchrun.bash; {torchrun}"
        inside = "unshare --uts --pid --fork --kill-child --mount-proc bash -c".split()
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        own = {"PATH": path, "GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1", "LOGLEVEL": "ERROR"}
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", f"skipwise-{number}", *inside, script],
                cwd=folder,
                env={**os.environ, **own, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def wait(self, seconds: float) -> int:
        return self._process.wait(seconds)

    def kill(self) -> None:
        """Ends all of its processes at once, as a power cut does."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
