"""One user's home with a real supervisor in it, driven from outside: commands, sockets, signals.

Everything waits for an event: a line of the event stream, the end of a process, an answer. Limits are only
there so that a broken program fails a test instead of hanging it.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

LIMIT_S = 30.0
TESTS = Path(__file__).resolve().parents[1]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Answer:
    """Status, headers and body of one HTTP answer."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<{self.status} {self.body[:200]!r}>"


class House:
    """`with House() as house`: an empty HOME; at the end nothing of it runs or exists any more."""

    def __init__(self, **policy: float) -> None:
        # Not tmp_path: its names are too long for a socket's path on some systems.
        self.home = Path(tempfile.mkdtemp(prefix="mp-", dir="/tmp"))
        self.runtime = self.home / "run"
        self.runtime.mkdir(mode=0o700)
        self.state = self.home / "state" / "modelproxy"
        self.control = self.runtime / "modelproxy" / "control.sock"
        self.policy = policy
        self.supervisors: list[subprocess.Popen[bytes]] = []
        self.pids: set[int] = set()
        self.env = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
        self.env |= {
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "XDG_STATE_HOME": str(self.home / "state"),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "PYTHONPATH": str(TESTS),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_everything()
        if kind is None:
            shutil.rmtree(self.home, ignore_errors=True)

    def _end_everything(self) -> None:
        """Kill what this house started, by pid; a pid counts only while it belongs to this house."""
        for supervisor in self.supervisors:
            if supervisor.poll() is None:
                supervisor.send_signal(signal.SIGCONT)
                supervisor.kill()
                supervisor.wait()
        # What they started as well: a socket holder would keep its ports for a day. Who was just being started
        # when we looked is seen the next time.
        while pids := self.processes():
            for pid in pids:
                _quietly_kill(pid)
                wait_gone(pid)

    def processes(self) -> list[int]:
        """Everything that runs in this home, whoever started it."""
        pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        return [pid for pid in pids if self.is_ours(pid)]

    def processes_named(self, word: bytes) -> list[int]:
        """Those of them with `word` in their command line."""
        return processes_of(self, word)

    def is_ours(self, pid: int) -> bool:
        try:
            return f"HOME={self.home}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False

    def workers_on_record(self) -> list[int]:
        try:
            saved = json.loads((self.state / "state.json").read_text())
        except (OSError, ValueError):
            return []
        return [worker["pid"] for proxy in saved["proxies"] for worker in proxy["workers"] if worker["pid"]]

    # --- the supervisor --------------------------------------------------------------------------

    def start(
        self,
        *,
        bad_workers: bool = False,
        wait: bool = True,
        interpreter: Path | None = None,
        prefix: Sequence[str] = (),
        arguments: Sequence[str] = (),
        **popen: Any,
    ) -> subprocess.Popen[bytes]:
        """Start a supervisor in the foreground; with `wait`, until its control socket answers.

        `interpreter` is the one that it makes workers with; `prefix` a program that starts it.
        """
        changes = self.policy | ({} if interpreter is None else {"interpreter": str(interpreter)})
        supervisor = [sys.executable, "-P", "-m", "fakes.quick_supervisor", json.dumps(changes)]
        command = [*prefix, *supervisor, *arguments]
        if bad_workers:
            command += ["--worker-module", "fakes.bad_worker"]
        log = open(self.home / "daemon.err", "ab")  # noqa: SIM115  # the child's copy outlives this one
        with log:
            popen = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "cwd": "/", **popen}
            process = subprocess.Popen(command, env=self.env, **popen)
        self.supervisors.append(process)
        if wait:
            self.wait_ready(process)
        return process

    def wait_ready(self, process: subprocess.Popen[bytes] | None = None) -> None:
        """Until the control socket answers."""
        for _ in attempts():
            if process is not None and process.poll() is not None:
                raise AssertionError(f"the supervisor ended with {process.returncode}: {self.daemon_log()}")
            try:
                if self.api("GET", "/v1/version").status == 200:
                    return
            except OSError:
                continue
        raise AssertionError(f"no supervisor answers: {self.daemon_log()}")

    def kill_supervisor(self) -> None:
        supervisor = self.supervisors[-1]
        supervisor.kill()
        supervisor.wait()

    def kill_worker(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        wait_gone(pid)

    def kill_holder(self) -> None:
        """The third pair of hands that keeps the listening sockets."""
        for pid in processes_of(self, b"supervisor/holder.py"):
            os.kill(pid, signal.SIGKILL)
            wait_gone(pid)

    def daemon_log(self) -> str:
        try:
            return (self.home / "daemon.err").read_text()
        except OSError:
            return ""

    # --- asking it -------------------------------------------------------------------------------

    def api(self, method: str, path: str, body: Any = None, *, timeout: float = LIMIT_S) -> Answer:
        connection = _UnixConnection(self.control, timeout)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def up(self, model: str = "echo/demo", **options: Any) -> dict[str, Any]:
        options.setdefault("port", 0)
        answer = self.api("PUT", f"/v1/proxies/{quote(model, safe='')}", {"model": model, **options})
        assert answer.status == 200, answer
        row: dict[str, Any] = answer.json
        if row["pid"]:
            self.pids.add(row["pid"])
        return row

    def down(self, target: str, **options: Any) -> Answer:
        return self.api("DELETE", f"/v1/proxies/{quote(target, safe='')}", options)

    def restart(self, target: str, **options: Any) -> Answer:
        return self.api("POST", f"/v1/proxies/{quote(target, safe='')}/restart", options)

    def ps(self, *, stopped: bool = False) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.api("GET", f"/v1/proxies{'?all=1' if stopped else ''}").json
        self.pids |= {row["pid"] for row in rows if row["pid"]}
        return rows

    def row(self, name: str = "echo/demo") -> dict[str, Any]:
        return next(row for row in self.ps(stopped=True) if row["name"] == name)

    def wait_row(
        self, condition: Callable[[dict[str, Any]], bool], name: str = "echo/demo"
    ) -> dict[str, Any]:
        """Until the proxy's row fulfils `condition`; looked at after each event."""
        row = self.row(name)
        if condition(row):
            return row
        for _ in self.events():
            row = self.row(name)
            if condition(row):
                return row
        raise AssertionError(f"never came true; the last row was {row}\n{self.daemon_log()}")

    def wait_rolled(self, generation: int, name: str = "echo/demo") -> dict[str, Any]:
        """Until that generation serves alone: its number is there from its start on, while the old one answers."""
        return self.wait_row(
            lambda row: row["generation"] == generation and row["state"] == "ready" and not row["draining"],
            name,
        )

    def wait_tally(
        self, condition: Callable[[dict[str, Any]], bool], name: str = "echo/demo"
    ) -> dict[str, Any]:
        """The same for what heartbeats bring (`requests`, `in_flight`), which is no event."""
        for _ in attempts():
            if condition(row := self.row(name)):
                return row
        raise AssertionError(f"never came true; the last row was {row}\n{self.daemon_log()}")

    def wait_logged(self, size: int, name: str = "echo/demo") -> None:
        """Until its log has more than so many bytes: a request's line may come after its answer."""
        log = self.state / "logs" / f"{name.replace('/', '~')}.log"
        for _ in attempts():
            if log.stat().st_size > size:
                return
        raise AssertionError(f"{log} did not grow beyond {size} bytes")

    def wait_usage(
        self, proxy: str, condition: Callable[[list[dict[str, Any]]], bool]
    ) -> list[dict[str, Any]]:
        """The proxy's rows of the ledger, once they are as they should be."""
        rows: list[dict[str, Any]] = []
        for _ in attempts(pause_s=0.05):
            rows = self.api("GET", f"/v1/usage?proxy={quote(proxy, safe='')}").json
            if condition(rows):
                return rows
        raise AssertionError(f"the ledger has {rows}")

    def wait_event(self, kind: str, name: str = "echo/demo", *, since: int = 0) -> dict[str, Any]:
        for event in self.events(since=since):
            if event["kind"] == kind and event["proxy"] == name:
                return event
        raise AssertionError(f"no {kind} of {name}\n{self.daemon_log()}")

    def events(self, *, since: int = 0) -> Iterator[dict[str, Any]]:
        """Every event from the first one on, as it comes, until LIMIT_S of silence."""
        connection = _UnixConnection(self.control, LIMIT_S)
        try:
            connection.request("GET", f"/v1/events?follow=1&since={since}")
            response = connection.getresponse()
            while line := response.readline():
                yield json.loads(line)
        except TimeoutError:
            return
        finally:
            connection.close()

    def past_events(self) -> list[dict[str, Any]]:
        """What has happened so far."""
        lines = self.api("GET", "/v1/events").body.splitlines()
        return [json.loads(line) for line in lines]

    def command(
        self, *words: str, module: str = "modelproxy.ctl", timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """`proxyctl WORDS`, as its user types it."""
        line = [sys.executable, "-P", "-m", module, *words]
        return subprocess.run(
            line,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def tell(self, *words: str, code: int = 0, module: str = "modelproxy.ctl") -> Any:
        """The same where JSON is expected on stdout, and this exit code."""
        done = self.command(*words, module=module)
        assert done.returncode == code, done
        return json.loads(done.stdout)

    @contextmanager
    def running(
        self, *words: str, module: str = "modelproxy.ctl", **popen: Any
    ) -> Iterator[subprocess.Popen[str]]:
        """The same while it runs; at the end of the block it does no more."""
        line = [sys.executable, "-P", "-m", module, *words]
        popen = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "env": self.env,
            **popen,
        }
        with subprocess.Popen(line, text=True, **popen) as process:
            try:
                yield process
            finally:
                process.kill()

    def at_once(self, *lines: Sequence[str], module: str = "modelproxy.ctl") -> list[tuple[int, str, str]]:
        """Several commands at the same time: exit code, stdout and stderr of each."""
        with ExitStack() as stack:
            running = [stack.enter_context(self.running(*words, module=module)) for words in lines]
            said = [process.communicate(timeout=60) for process in running]
            return [(process.returncode, *texts) for process, texts in zip(running, said, strict=True)]


# --- clients --------------------------------------------------------------------------------------


def message(text: Any = "hello there", *, stream: bool = False) -> dict[str, Any]:
    return {
        "model": "claude-sonnet-4-5",
        "max_tokens": 100_000,
        "stream": stream,
        "messages": [{"role": "user", "content": text}],
    }


def ask(
    port: int,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    *,
    timeout: float = LIMIT_S,
) -> Answer:
    """One request on a connection of its own. Text and bytes go as they are, anything else as JSON."""
    content = body if body is None or isinstance(body, str | bytes) else json.dumps(body)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, content, dict(headers or {}))
        return Answer(connection.getresponse())
    finally:
        connection.close()


def post(port: int, body: Any, *, timeout: float = LIMIT_S, path: str = "/v1/messages") -> Answer:
    return ask(port, "POST", path, json.dumps(body), {"content-type": "application/json"}, timeout=timeout)


def get(port: int, path: str, *, timeout: float = LIMIT_S) -> Answer:
    return ask(port, "GET", path, timeout=timeout)


def assert_error(answer: Answer, status: int, kind: str, *texts: str) -> None:
    """ERR of the behaviours: status, type, a text, and the id in header and body."""
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/json"
    document = answer.json
    assert set(document) == {"type", "error", "request_id"}
    assert document["type"] == "error"
    assert document["error"]["type"] == kind
    for text in texts:
        assert text in document["error"]["message"]
    assert document["request_id"].startswith("req_")
    assert answer.headers["request-id"] == document["request_id"]
    assert "Traceback" not in document["error"]["message"]


class Waiting:
    """Requests that have been sent; their clients wait."""

    def __init__(self, port: int, count: int) -> None:
        self.answers: list[int] = []
        self._threads = [threading.Thread(target=self._ask, args=(port,)) for _ in range(count)]
        for one in self._threads:
            one.start()

    def _ask(self, port: int) -> None:
        try:
            self.answers.append(post(port, message()).status)
        except OSError as error:
            self.answers.append(error.errno or -1)

    def all(self) -> list[int]:
        for one in self._threads:
            one.join()
        return self.answers


class Stream:
    """A streamed answer that is being read."""

    def __init__(self, port: int, text: Any, headers: Mapping[str, str] | None = None) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
        self._connection.request(
            "POST",
            "/v1/messages",
            json.dumps(message(text, stream=True)),
            {"content-type": "application/json", **(headers or {})},
        )
        self.response = self._connection.getresponse()
        self.seen = b""

    def read_until(self, word: bytes) -> None:
        while word not in self.seen:
            line = self.response.readline()
            assert line, f"the stream ended before {word!r}: {self.seen[-300:]!r}"
            self.seen += line

    def rest(self) -> bytes:
        """Everything to the end; a cut raises IncompleteRead."""
        try:
            self.seen += self.response.read()
        finally:
            self.close()
        return self.seen

    def close(self) -> None:
        self.response.close()
        self._connection.close()


def is_refused(port: int, host: str = "127.0.0.1") -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.settimeout(5)
        try:
            probe.connect((host, port))
        except ConnectionRefusedError:
            return True
        return False


# --- processes ------------------------------------------------------------------------------------


def wait_gone(pid: int, timeout: float = LIMIT_S) -> bool:
    """Until the process has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return True
    try:
        return bool(select.select([pidfd], [], [], timeout)[0])
    finally:
        os.close(pidfd)


def listens(pid: int, port: int) -> bool:
    """Whether this process has the socket that listens on 127.0.0.1:PORT."""
    local = f"0100007F:{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {row[9] for row in rows if row[1] == local and row[3] == "0A"}
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(os.readlink(link))
        except OSError:
            continue
    return any(f"socket:[{inode}]" in found for inode in inodes)


def is_alive(pid: int) -> bool:
    return _run_state(pid) not in "ZX"


def stands_still(pid: int) -> bool:
    """By SIGSTOP."""
    return _run_state(pid) == "T"


def _run_state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def cpu_s(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def attempts(limit_s: float = LIMIT_S, pause_s: float = 0.01) -> Iterator[int]:
    """For the few things that announce themselves nowhere: look again until the limit."""
    import time

    end = time.monotonic() + limit_s
    count = 0
    while time.monotonic() < end:
        yield count
        count += 1
        time.sleep(pause_s)


def processes_of(house: House, word: bytes) -> list[int]:
    """Every process of this house with `word` in its command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and house.is_ours(int(entry.name)):
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if word in command:
                found.append(int(entry.name))
    return found


def workers_of(house: House) -> list[int]:
    makers = fork_servers_of(house)
    return [pid for pid in processes_of(house, b"modelproxy.worker") if pid not in makers]


def fork_servers_of(house: House) -> list[int]:
    return processes_of(house, b"modelproxy.worker.forkserver")


# One of the kernel's own choice (Linux: from 32768 on, macOS: from 49152 on) that is given back may be anybody's
# next, before a test takes it again: the near end of a connection, a listener of other tests. These nobody gets
# who does not name them.
_PORTS = range(20_000, 30_000)


def listener(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """A socket that listens; without a port, at one where it can be closed and opened again."""
    for _ in range(100):
        try:
            return socket.create_server((host, port or random.choice(_PORTS)), backlog=256)
        except OSError as error:
            if port or error.errno != errno.EADDRINUSE:
                raise
    raise AssertionError(f"a hundred of {_PORTS} are taken")


def free_port(*, neighbours: int = 0) -> int:
    """A port that nobody has, nor so many behind it."""
    for _ in range(100):
        with ExitStack() as stack:
            port: int = stack.enter_context(listener()).getsockname()[1]
            try:
                for number in range(port + 1, port + 1 + neighbours):
                    stack.enter_context(listener(port=number))
            except OSError:
                continue
        return port
    raise AssertionError(f"there are no {neighbours + 1} free ports in a row")


def _quietly_kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
