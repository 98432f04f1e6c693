"""A minute of misfortune: load from new connections while workers and supervisors are killed and rolled.

    python bench/storm.py [--seconds 60] [--rate 600]

Every 5 s the worker is killed with SIGKILL, every 7 s the supervisor (a new one is started at once), every 3 s
`proxyctl restart` rolls the worker; after 35 s worker and supervisor die in the same instant. Meanwhile a
second proxy streams for 30 s through all supervisor kills.

Exit code 0 when no connection was refused, every failed request was inside a worker that was being killed,
and the stream ended whole. Loopback only, bounded in time and rate, in a HOME of its own.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import trio

BODY = json.dumps(
    {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "hello there"}]}
).encode()
MAX_OPEN = 1500
REQUEST_LIMIT_S = 20.0


@attrs.define
class Tally:
    outcomes: Counter[str] = attrs.Factory(Counter)
    kills: list[float] = attrs.Factory(list)
    """When a worker was killed."""
    unexplained: list[str] = attrs.Factory(list)
    slowest_s: float = 0.0
    supervisor_kills: int = 0
    rolls: int = 0
    failed_rolls: int = 0
    stream: str = "not finished"

    def failed(self, began: float, kind: str) -> None:
        """A failure is explained when the request was in progress at the moment a worker was killed."""
        ended = time.monotonic()
        inside = any(began <= at + 0.005 and ended >= at - 0.005 for at in self.kills)
        self.outcomes[f"{kind} inside a killed worker" if inside and kind != "refused" else kind] += 1
        if not inside or kind == "refused":
            self.unexplained.append(f"{kind} after {ended - began:.3f} s")


def request_bytes(port: int, body: bytes, *, keep: bool = False) -> bytes:
    head = (
        f"POST /v1/messages HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n{'' if keep else 'connection: close' + chr(13) + chr(10)}\r\n"
    )
    return head.encode() + body


async def one_request(port: int, tally: Tally, slots: trio.Semaphore) -> None:
    began = time.monotonic()
    try:
        with trio.fail_after(REQUEST_LIMIT_S):
            answer = await exchange(port, request_bytes(port, BODY))
    except ConnectionRefusedError:
        tally.failed(began, "refused")
    except trio.TooSlowError:
        tally.failed(began, "timeout")
    except OSError as error:
        tally.failed(began, errno.errorcode.get(error.errno or 0, "error").lower())
    else:
        if answer.startswith(b"HTTP/1.1 200") and b"hello there" in answer:
            tally.outcomes["ok"] += 1
        else:
            tally.failed(began, f"answer {answer[:40]!r}" if answer else "cut")
    finally:
        slots.release()
        tally.slowest_s = max(tally.slowest_s, time.monotonic() - began)


async def exchange(port: int, data: bytes) -> bytes:
    with trio.socket.socket() as sock:
        await sock.connect(("127.0.0.1", port))
        await sock.send(data)
        answer = b""
        while chunk := await sock.recv(65536):
            answer += chunk
        return answer


async def load(port: int, rate: int, seconds: float, tally: Tally) -> None:
    """An open loop: requests begin by the clock, whether or not earlier ones have ended."""
    slots = trio.Semaphore(MAX_OPEN)
    began = trio.current_time()
    sent = 0
    async with trio.open_nursery() as nursery:
        while (elapsed := trio.current_time() - began) < seconds:
            while sent < elapsed * rate:
                await slots.acquire()
                nursery.start_soon(one_request, port, tally, slots)
                sent += 1
            await trio.sleep(0.005)


async def stream(port: int, seconds: float, tally: Tally) -> None:
    words = " ".join(f"w{number}" for number in range(int(seconds * 10)))
    body = json.dumps(
        {
            "model": "m",
            "max_tokens": 100_000,
            "stream": True,
            "messages": [{"role": "user", "content": f"echo:slow 100ms\n{words}"}],
        }
    ).encode()
    try:
        answer = await exchange(port, request_bytes(port, body))
    except OSError as error:
        tally.stream = f"broken: {error}"
        return
    whole = b"event: message_stop" in answer and answer.count(b"content_block_delta\n") >= int(seconds * 10)
    tally.stream = "whole" if whole else f"not whole: {answer[-200:]!r}"


class Bench:
    """The commands of one HOME."""

    def __init__(self, home: Path) -> None:
        runtime = home / "run"
        runtime.mkdir(mode=0o700)
        self._env = {
            **os.environ,
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(runtime),
            "XDG_STATE_HOME": str(home / "state"),
            "XDG_CONFIG_HOME": str(home / "config"),
        }
        self._lock = runtime / "modelproxy" / "lock"

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-P", "-m", "modelproxy.ctl", *words]
        return subprocess.run(line, env=self._env, capture_output=True, text=True, timeout=60, check=False)

    async def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return await trio.to_thread.run_sync(self.command, *words)

    def supervisor_pid(self) -> int:
        return int(self._lock.read_text())


async def every(seconds: float, phase: float, until: float, act: Callable[[], Awaitable[None]]) -> None:
    at = trio.current_time() + phase
    while at < until:
        await trio.sleep_until(at)
        await act()
        at += seconds


async def main(seconds: float, rate: int) -> int:
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="storm-", dir="/tmp") as folder:
        bench = Bench(Path(folder))
        first = json.loads((await bench.run("up", "echo/load", "--port", "0", "--json")).stdout)
        second = json.loads((await bench.run("up", "echo/stream", "--port", "0", "--json")).stdout)
        try:
            await storm(bench, first["port"], second["port"], seconds, rate, tally)
            rows = json.loads((await bench.run("ps", "--json")).stdout)
        finally:
            await bench.run("daemon", "stop", "--grace", "2")
    return report(tally, rows, seconds)


async def storm(bench: Bench, port: int, stream_port: int, seconds: float, rate: int, tally: Tally) -> None:
    until = trio.current_time() + seconds

    async def kill_worker() -> None:
        rows = json.loads((await bench.run("ps", "--json")).stdout or "[]")
        pid = next((row["pid"] for row in rows if row["name"] == "echo/load"), None)
        if pid:
            tally.kills.append(time.monotonic())
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                tally.kills.pop()

    async def kill_supervisor() -> None:
        os.kill(bench.supervisor_pid(), signal.SIGKILL)
        tally.supervisor_kills += 1
        await bench.run("daemon", "start")

    async def roll() -> None:
        done = await bench.run("restart", "echo/load")
        tally.rolls += done.returncode == 0
        tally.failed_rolls += done.returncode != 0

    async with trio.open_nursery() as nursery:
        nursery.start_soon(load, port, rate, seconds, tally)
        nursery.start_soon(stream, stream_port, min(30.0, seconds), tally)
        nursery.start_soon(every, 5.0, 5.0, until, kill_worker)
        nursery.start_soon(every, 7.0, 7.0, until, kill_supervisor)
        nursery.start_soon(every, 3.0, 3.0, until, roll)


def report(tally: Tally, rows: list[dict[str, object]], seconds: float) -> int:
    total = sum(tally.outcomes.values())
    print(f"requests {total} in {seconds:g} s ({total / seconds:.0f}/s), a new connection each")
    for outcome, count in tally.outcomes.most_common():
        print(f"  {outcome}: {count}")
    print(f"slowest request {tally.slowest_s:.2f} s")
    print(f"worker kills {len(tally.kills)}, supervisor kills {tally.supervisor_kills}, ", end="")
    print(f"rolls {tally.rolls} (and {tally.failed_rolls} that met no supervisor)")
    print(f"30 s stream through all supervisor kills: {tally.stream}")
    for row in rows:
        print(f"at the end: {row['name']} {row['state']} restarts={row['restarts']} {row['detail']}")
    for line in tally.unexplained[:20]:
        print(f"UNEXPLAINED {line}")
    good = not tally.unexplained and tally.outcomes["refused"] == 0 and tally.stream == "whole"
    print("storm: passed" if good else "storm: FAILED")
    return 0 if good else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=int, default=600, help="requests begun per second")
    arguments = parser.parse_args()
    sys.exit(trio.run(main, arguments.seconds, arguments.rate))
