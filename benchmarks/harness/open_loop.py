"""Requests at planned moments, whether or not earlier ones have been answered, and how long each took."""

import asyncio
import time
from dataclasses import dataclass

import numpy as np

TIMEOUT_S = 10.0
IDLE_S = 60.0
"""Age at which an idle connection is not used again, as by most proxies: the service closes its end after 75 s."""


@dataclass(frozen=True)
class Round:
    """One round's requests, in the order they were planned."""

    latencies: np.ndarray
    """Seconds from each planned moment to the answer's last byte, errors too."""
    late: np.ndarray
    """Seconds by which each was sent after its moment."""
    errors: int
    """Answers other than 200, and requests without one."""


def play(port: int, bodies: list[bytes], rate: float, seconds: float, random: np.random.Generator) -> Round:
    """Posts to /recommend on this machine's `port`, `rate` times a second on average."""
    gaps = random.exponential(1 / rate, max(1, round(rate * seconds)))
    chosen = random.integers(0, len(bodies), len(gaps))
    return asyncio.run(_play(_Client(port), [bodies[one] for one in chosen], np.cumsum(gaps)))


async def _play(client: "_Client", bodies: list[bytes], moments: np.ndarray) -> Round:
    begun = time.perf_counter()

    async def ask(body: bytes, moment: float) -> tuple[float, float, bool]:
        late = time.perf_counter() - begun - moment
        try:
            async with asyncio.timeout(TIMEOUT_S):
                right = await client.post(body) == 200
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            right = False
        return time.perf_counter() - begun - moment, late, right

    tasks = []
    for body, moment in zip(bodies, moments.tolist(), strict=True):
        if (wait := begun + moment - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(ask(body, moment)))
    latencies, late, right = zip(*await asyncio.gather(*tasks), strict=True)
    client.close()
    return Round(np.array(latencies), np.array(late), right.count(False))


class _Client:
    """As little as HTTP needs: a client with more to it would take the service's time. Idle connections are kept."""

    def __init__(self, port: int):
        self._port = port
        self._idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []
        """Each since when."""

    async def post(self, body: bytes) -> int:
        """The status, once the whole answer is here."""
        reader, writer = await self._connection()
        try:
            head = f"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            await reader.readexactly(int(answer.split("content-length: ", 1)[1].split("\r\n", 1)[0]))
        except BaseException:
            writer.close()
            raise
        self._idle.append((time.monotonic(), reader, writer))
        return int(answer.split(" ", 2)[1])

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            since, reader, writer = self._idle.pop()
            if time.monotonic() - since < IDLE_S and not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", self._port)

    def close(self) -> None:
        """Ends all idle connections."""
        for _, _, writer in self._idle:
            writer.close()
