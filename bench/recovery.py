"""How long it takes until all is well again, with the limits that users have.

    python bench/recovery.py [--proxies 5]

Measured, in one run of about a minute and a half, in a HOME of its own:

- from `kill -9` of a worker to the answer of a request that was sent right after it (it waits in the socket's
  queue), for workers made by exec and by fork; the worker had been ready for more than ten seconds, so there is no
  pause before the next one
- from `kill -9` of the supervisor, when another one is started at once, to its first answer and to the moment when
  it has adopted every worker
- from SIGSTOP of a worker to the word `hung`, and to the answer of a request that was sent right after it

Loopback only, a few dozen requests.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROVEN_S = 10.5
"""A little longer than FREE_RESTART_AFTER_S of the policy."""
BODY = json.dumps({"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "hello"}]})


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))


class Home:
    """An empty HOME whose supervisor makes workers in the way that is asked for."""

    def __init__(self, folder: Path, spawn: str) -> None:
        runtime, config = folder / "run", folder / "config" / "modelproxy"
        runtime.mkdir(mode=0o700)
        config.mkdir(parents=True)
        (config / "config.toml").write_text(f'spawn = "{spawn}"\n')
        self._control = runtime / "modelproxy" / "control.sock"
        self._env = {
            **os.environ,
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(runtime),
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_CONFIG_HOME": str(folder / "config"),
        }
        self._log = (folder / "daemon.err").open("ab")
        self.supervisor: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start a supervisor; returns at its first answer."""
        words = [sys.executable, "-P", "-m", "modelproxy.supervisor"]
        self.supervisor = subprocess.Popen(words, env=self._env, stderr=self._log, stdin=subprocess.DEVNULL)
        while True:
            try:
                self.ask("GET", "/v1/version")
            except OSError:
                time.sleep(0.002)
            else:
                return

    def ask(self, method: str, path: str, body: object = None):
        connection = _Unix(self._control)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise SystemExit(f"{method} {path}: {answer}")
        return answer

    def up(self, count: int) -> list[dict]:
        rows = []
        for number in range(count):
            name = f"echo/m{number}"
            rows.append(self.ask("PUT", f"/v1/proxies/echo%2Fm{number}", {"model": name, "port": 0}))
        return rows

    def events(self) -> Iterator[dict]:
        """From now on."""
        connection = _Unix(self._control)
        connection.request("GET", "/v1/events?follow=1")
        response = connection.getresponse()
        while line := response.readline():
            yield json.loads(line)

    def stop(self) -> None:
        self.ask("POST", "/v1/daemon/stop", {"grace_s": 1})
        assert self.supervisor is not None
        self.supervisor.wait(30)


@contextmanager
def home(spawn: str) -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="rec-", dir="/tmp") as folder:
        made = Home(Path(folder), spawn)
        made.start()
        try:
            yield made
        finally:
            made.stop()


def request(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", "/v1/messages", BODY, {"content-type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200, response.read()
    response.read()
    connection.close()


def after_worker_kill(spawn: str, count: int) -> list[float]:
    """Milliseconds, one sample per proxy."""
    with home(spawn) as one:
        rows = one.up(count)
        time.sleep(PROVEN_S)
        found = []
        for row in rows:
            began = time.perf_counter()
            os.kill(row["pid"], signal.SIGKILL)
            wait_dead(row["pid"])
            request(row["port"])
            found.append((time.perf_counter() - began) * 1000)
        return found


def wait_dead(pid: int) -> None:
    """Until its sockets are closed: an answer is to come from the next one."""
    try:
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
            pass
    except OSError:
        pass


def after_supervisor_kill(count: int, times: int = 3) -> tuple[list[float], list[float]]:
    """Milliseconds to the first answer, and to the last adoption."""
    answers, adoptions = [], []
    with home("exec") as one:
        pids = {row["name"]: row["pid"] for row in one.up(count)}
        for _ in range(times):
            began = time.perf_counter()
            assert one.supervisor is not None
            one.supervisor.kill()
            one.supervisor.wait()
            one.start()
            answers.append((time.perf_counter() - began) * 1000)
            while {
                row["name"]: row["pid"] for row in one.ask("GET", "/v1/proxies") if row["state"] == "ready"
            } != pids:
                time.sleep(0.002)
            adoptions.append((time.perf_counter() - began) * 1000)
    return answers, adoptions


def after_stop(count: int) -> tuple[list[float], list[float]]:
    """Seconds to the word, and to the answer."""
    words: dict[str, float] = {}
    answers: list[float] = []
    with home("exec") as one:
        rows = one.up(count)
        time.sleep(PROVEN_S)
        began = time.perf_counter()

        def listen() -> None:
            for event in one.events():
                if event["kind"] == "hung":
                    words.setdefault(event["proxy"], time.perf_counter() - began)
                if len(words) == count:
                    return

        def wait(port: int) -> None:
            request(port)
            answers.append(time.perf_counter() - began)

        for row in rows:
            os.kill(row["pid"], signal.SIGSTOP)
        threads = [threading.Thread(target=listen)]
        threads += [threading.Thread(target=wait, args=(row["port"],)) for row in rows]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return list(words.values()), answers


def line(what: str, samples: list[float], unit: str) -> None:
    digits = 1 if unit == "s" else 0
    numbers = (statistics.median(samples), min(samples), max(samples))
    print(f"{what:<62}" + "".join(f"{number:>9.{digits}f}" for number in numbers) + f"  {unit}")


def main(count: int) -> None:
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, {count} proxies".ljust(62), end="")
    print("   median    least     most")
    for spawn in ("exec", "fork") if sys.platform == "linux" else ("exec",):
        line(f"kill -9 of a worker to the next answer ({spawn})", after_worker_kill(spawn, count), "ms")
    answers, adoptions = after_supervisor_kill(count)
    line("kill -9 of the supervisor to the next one's first answer", answers, "ms")
    line("  … until every worker is adopted", adoptions, "ms")
    words, served = after_stop(count)
    line("SIGSTOP of a worker until it is called hung", words, "s")
    line("  … until a request that waits is answered by the next one", served, "s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--proxies", type=int, default=5, help="samples of each kind; default 5")
    main(parser.parse_args().proxies)
