"""How long a worker takes and what it weighs: exec against the fork server, in one run.

    python bench/spawn.py [--rounds 7] [--counts 1,10,50]

For each way a supervisor of its own, in a HOME of its own. A start is measured inside it, by its own log: from
the wish (`up: wanted`) until the last of the proxies wanted together has said `ready`. Memory is what the kernel
counts as PSS (`smaps_rollup`), in MiB, of all workers together; the fork server is shown apart, alone and with
workers beside it. It has to exist once, however many workers there are.

Exit code 0 when starts by fork take at most a tenth of those by exec, and ten workers of the fork server add at
most a third of the memory. Loopback only, nothing is served.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from socket import AF_UNIX, socket
from typing import Any
from urllib.parse import quote

from modelproxy.supervisor.policy import STARTS_PER_WINDOW

LIMIT_S = 120.0
WAYS = ("exec", "fork")
MOST_STARTS = STARTS_PER_WINDOW - 1
"""After so many, and the one that shows it to be there, a supervisor lets the next ones wait: a minute of that is no
start of anybody. So each number of workers has supervisors of its own."""


class Daemon:
    """A supervisor that makes its workers in one way."""

    def __init__(self, home: Path, way: str) -> None:
        self._log = home / "log"
        self._control = home / "run" / "modelproxy" / "control.sock"
        (home / "run").mkdir(mode=0o700, parents=True)
        (home / "config" / "modelproxy").mkdir(parents=True)
        (home / "config" / "modelproxy" / "config.toml").write_text(f'spawn = "{way}"\n')
        environment = {**os.environ, "HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run")}
        environment |= {f"XDG_{name}_HOME": str(home / name.lower()) for name in ("STATE", "CONFIG")}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "modelproxy.supervisor"],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
            )  # fmt: skip

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        connection = HTTPConnection("localhost", timeout=LIMIT_S)
        connection.sock = socket(AF_UNIX)
        connection.sock.settimeout(LIMIT_S)
        connection.sock.connect(str(self._control))
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def wait(self, way: str) -> None:
        """Until it answers and its workers come in the way that is to be measured."""
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            try:
                if self.ask("GET", "/v1/version")["spawn"] == way:
                    self.up(["echo/first"])  # the first one waits until the fork server has loaded everything
                    self.down()
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise SystemExit(f"no supervisor that makes workers by {way}: {self._log.read_text()}")

    def up(self, names: list[str]) -> None:
        """All at the same time, by as many clients."""
        body = {"port": 0, "wait_s": LIMIT_S}
        calls = [
            threading.Thread(
                target=self.ask, args=("PUT", f"/v1/proxies/{quote(name, safe='')}", {"model": name, **body})
            )
            for name in names
        ]
        for call in calls:
            call.start()
        for call in calls:
            call.join()

    def down(self) -> None:
        self.ask("DELETE", "/v1/proxies/all", {"grace_s": 0.0})

    def workers(self) -> list[int]:
        return [row["pid"] for row in self.ask("GET", "/v1/proxies")]

    def time_of(self, names: list[str]) -> float:
        """Milliseconds from the first wish to the last `ready`."""
        before = self._log.stat().st_size
        self.up(names)
        with self._log.open("rb") as log:
            log.seek(before)
            lines = log.read().decode().splitlines()
        wanted = [moment(line) for line in lines if ": up: wanted" in line]
        ready = [moment(line) for line in lines if ": ready: pid" in line]
        if len(ready) != len(names):
            raise SystemExit(f"{len(ready)} of {len(names)} workers are ready: {lines}")
        return (max(ready) - min(wanted)) * 1000

    def fork_server(self) -> int | None:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in children:
            if b"modelproxy.worker.forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
        return None

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(LIMIT_S)


def moment(line: str) -> float:
    return datetime.fromisoformat(line.split()[0]).timestamp()


def pss(pids: list[int]) -> float:
    """MiB."""
    rolls = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    lines = [line for roll in rolls for line in roll.splitlines() if line.startswith("Pss:")]
    return sum(int(line.split()[1]) for line in lines) / 1024


@contextmanager
def daemon(way: str) -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="spawn-", dir="/tmp") as folder:
        running = Daemon(Path(folder), way)
        try:
            running.wait(way)
            yield running
        finally:
            running.stop()


def memory_of(running: Daemon, count: int) -> tuple[float, float, float]:
    """Of `count` workers, of the fork server when there are none, and with them."""
    server = running.fork_server()
    alone = pss([server] if server else [])
    running.up([f"echo/w{number}" for number in range(count)])
    return pss(running.workers()), alone, pss([server] if server else [])


def main(rounds: int, counts: list[int]) -> int:
    times: dict[tuple[str, int], list[float]] = {(way, count): [] for way in WAYS for count in counts}
    for count in counts:
        names = [f"echo/w{number}" for number in range(count)]
        # In turn, so that whatever else the machine does hits both.
        with daemon("exec") as slow, daemon("fork") as fast:
            for _ in range(min(rounds, MOST_STARTS // count) or 1):
                for way, running in zip(WAYS, (slow, fast), strict=True):
                    times[way, count].append(running.time_of(names))
                    running.down()
    weights = {}
    for way in WAYS:
        for count in counts:
            # Alone, because the libraries' pages are shared with whoever has them.
            with daemon(way) as running:
                weights[way, count] = memory_of(running, count)
    return report(times, weights, counts)


def report(
    times: dict[tuple[str, int], list[float]],
    weights: dict[tuple[str, int], tuple[float, float, float]],
    counts: list[int],
) -> int:
    good = True
    print("         ready after            |  PSS of workers      fork server    added  |")
    print("workers     exec     fork ratio |     exec     fork  alone  beside  by fork | ratio")
    for count in counts:
        slow, fast = (statistics.median(times[way, count]) for way in WAYS)
        (heavy, _, _), (light, alone, beside) = (weights[way, count] for way in WAYS)
        # Pages that were the fork server's alone are counted in parts once there are workers. So what ten workers
        # add is the difference between everything with them and the fork server without.
        added = light + beside - alone
        print(
            f"{count:7} {slow:5.0f} ms {fast:5.0f} ms {fast / slow:5.3f} | {heavy:8.1f} {light:8.1f} {alone:6.1f}"
            f"  {beside:6.1f} {added:8.1f} | {added / heavy:.3f}"
        )
        good = good and (count > 10 or fast <= slow / 10) and (count != 10 or added <= heavy / 3)
    print("spawn: passed" if good else "spawn: FAILED")
    return 0 if good else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--counts", default="1,10,50")
    arguments = parser.parse_args()
    sys.exit(main(arguments.rounds, [int(word) for word in arguments.counts.split(",")]))
