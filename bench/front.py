"""What the front's hop costs: the same request straight to a worker and through a front before it.

`python bench/front.py [SECONDS]`: a worker of the kind `echo`, a front that leads to it, each a process of its
own, and one client that keeps its connections. Prints the time per request on both ways, one at a time and 16 at
once, plain with a body of 50 kB as Claude Code sends it, and streamed; and the ratio.

One run on two cores that others use too (median of the time per request, ms):

| request | direct | through the front | ratio |
|---|---|---|---|
| small, 1 at a time | 0.37 | 0.87 | 2.35 |
| small, 16 at a time | 3.16 | 10.32 | 3.27 |
| 50 kB, 1 at a time | 0.62 | 1.15 | 1.84 |
| 50 kB, 16 at a time | 9.16 | 15.89 | 1.74 |
| stream, 1 at a time | 0.34 | 0.80 | 2.37 |
| stream, 16 at a time | 4.79 | 6.77 | 1.41 |

The provider answers in no time here, so the ratio is the worst there is: what counts is half a millisecond.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import cattrs

from modelproxy.worker.contract import Front, FrontRule, Place, WorkerSpec

TEXT = "word " * 9_500


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def start(folder: Path, spec: WorkerSpec) -> subprocess.Popen[bytes]:
    file = folder / f"{spec.port}.json"
    file.write_text(json.dumps(cattrs.unstructure(spec)))
    line = [sys.executable, "-P", "-m", "modelproxy.worker", "--spec", str(file)]
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while True:
        try:
            socket.create_connection(("127.0.0.1", spec.port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return process


def asked(*, text: str, stream: bool) -> bytes:
    body = {"model": "echo/demo", "max_tokens": 16, "stream": stream, "system": text}
    return json.dumps({**body, "messages": [{"role": "user", "content": "hi there"}]}).encode()


def client(port: int, body: bytes, until: float, times: list[float]) -> None:
    connection = HTTPConnection("127.0.0.1", port)
    while (began := time.perf_counter()) < until:
        connection.request("POST", "/v1/messages", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        times.append(time.perf_counter() - began)
    connection.close()


def measure(port: int, body: bytes, clients: int, seconds: float) -> float:
    times: list[float] = []
    until = time.perf_counter() + seconds
    threads = [threading.Thread(target=client, args=(port, body, until, times)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statistics.median(times) * 1000


def main(seconds: float) -> None:
    near, door = free_port(), free_port()
    common: dict[str, Any] = {"provider": "echo", "kind": "echo", "model": "demo", "model_id": "echo/demo"}
    worker = WorkerSpec(name="echo/demo", port=near, **common)
    place = Place("echo/demo", "echo/demo", f"http://127.0.0.1:{near}")
    leads = Front([FrontRule("echo/demo", model="echo/*")], [place])
    front = WorkerSpec("front", "front", "front", "front", "default", door, front=leads)
    with tempfile.TemporaryDirectory() as folder:
        processes = [start(Path(folder), spec) for spec in (worker, front)]
        try:
            for name, text, stream in (("small", "", False), ("50 kB", TEXT, False), ("stream", "", True)):
                body = asked(text=text, stream=stream)
                for clients in (1, 16):
                    direct = measure(near, body, clients, seconds)
                    through = measure(door, body, clients, seconds)
                    row = f"{direct:.2f} | {through:.2f} | {through / direct:.2f}"
                    print(f"| {name}, {clients} at a time | {row} |", flush=True)
        finally:
            for process in processes:
                process.kill()
                process.wait()


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 2.0)
