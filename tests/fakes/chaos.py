"""A storm over one home: load, random faults, and a verdict.

Theory of operation
-------------------
`Storm` starts a real supervisor with a few proxies, keeps clients at them who never rest, and does one random
thing to some process every 0.2 s. A thread plays systemd and starts a supervisor whenever there is none; another
one plays a user who wishes an extra proxy up and down.

Every answer is judged when it ends: right and complete, an explicit error, or cut. A cut is explained by the
death of a worker of that proxy while the request was under way, or, where there was none to lose, by that of the
supervisor which stood in for it and had said nothing yet; nothing explains a refused connection, an answer
that pretends to be complete, or silence. `verdict` looks at what must hold once the storm is over.

The faults stay within what is promised. They never take the last pair of hands from a listening socket:
supervisor, worker and holder may lose any two of them at once, not all three. And they do not keep supervisors from
coming up for as long as the holder waits for one (ABANDONED_S) before it lets go of a port where nobody is served.

The same seed gives the same faults in the same order; when exactly each one hits is up to the machine.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from . import grammar
from .house import House, attempts, fork_servers_of, is_alive, listens, message, post, stands_still
from .upstream import Reply, Seen, Upstream

# As patient as a storm allows: pauses of half a minute would outlast it. All else is what users have.
#
# Whoever is frozen in the storm's last moment is to be found and replaced within the calm's ten seconds. After
# it was frozen, one that serves or drains is looked at after 3 s, judged 0.5 s later and gone another second later
# at most; one that starts is gone after 4 s; and when the supervisor is lost in the same moment, the next one,
# which needs a second to start, waits 3 s for it. To each add a pause of 1.25 s and a start: 7 s, and three for a
# machine that is busy with other things. A healthy worker is silent for 2 s between two beats, and up to 1.5 s more
# while it is paused.
POLICY = {
    "FIRST_DELAY_S": 0.1,
    "MAX_DELAY_S": 1.0,
    "QUEUE_THROUGH_S": 0.2,
    "SILENCE_LIMIT_S": 3.0,
    "BUSY_SILENCE_LIMIT_S": 10.0,
    "START_LIMIT_S": 4.0,
}
ECHOES = ("echo/a", "echo/b", "echo/c")
FAR = "ollama/far"
LAZY = "echo/lazy"
IDLE_S = 1.0
EXTRA = "echo/extra"
GAP_S = 0.2
ANSWER_LIMIT_S = 40.0
_LEADERLESS_S = 4.0
"""After so long without one a supervisor that is starting is left alone."""
SUPERVISOR = "supervisor"
_DOWN_S = 2.0
"""So long a proxy may be without a worker (MAX_DELAY_S and a start), and the supervisor answer for it."""
_REST_S = 0.03
_LONG_REST_S = 3.0
"""Up to so long nobody asks the lazy one."""
_KEPT = 4
"""Connections to its provider that a worker keeps for the next request or look."""
_FAR_STATUSES = frozenset({500, 502, 503, 504, 529})
"""500: what its provider began and did not finish is nobody's whole answer."""
_OUR_STATUSES = frozenset({503, 529})
_SERVING, _RESTING, _STOPPED = ("ready",), ("ready", "idle"), ("stopped",)
"""The states of a proxy that is as wished: always up, up for who comes, down."""


def _has_ipv6() -> bool:
    """Whether this machine has ::1; a container may have none."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


_HAS_IPV6 = _has_ipv6()


@attrs.frozen
class Ended:
    """How one request ended."""

    proxy: str
    began: float
    ended: float
    how: str
    """`ok`, `error`, `cut`, or what must never be."""
    detail: str = ""

    @property
    def is_silent(self) -> bool:
        """Not a byte of an answer came."""
        return " bytes" not in self.detail

    def __str__(self) -> str:
        return (
            f"{self.ended:9.3f} {self.proxy} {self.how} after {self.ended - self.began:.3f} s {self.detail}"
        )


class Diary:
    """What was done to whom and how requests ended, with times; for threads."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._wall = time.time()
        self._lock = threading.Lock()
        self.lines: list[str] = []
        self.ended: list[Ended] = []
        self.deaths: list[tuple[str, float]] = []
        """Which proxy lost a worker, and when."""
        self.faults: Counter[str] = Counter()

    def now(self) -> float:
        return time.monotonic() - self._began

    def since_epoch(self, stamp: str) -> float:
        """A time of the log of the supervisor on this diary's clock."""
        return datetime.fromisoformat(stamp).replace(tzinfo=UTC).timestamp() - self._wall

    def note(self, kind: str, text: str = "") -> None:
        with self._lock:
            self.faults[kind] += 1
            self.lines.append(f"{self.now():9.3f} {kind} {text}")

    def died(self, proxy: str) -> None:
        with self._lock:
            self.deaths.append((proxy, self.now()))

    def request(self, ended: Ended) -> None:
        with self._lock:
            self.ended.append(ended)

    def excuses(self, one: Ended) -> bool:
        """Whether it may have ended so."""
        if one.how != "cut":
            return one.how in ("ok", "error")
        return self._lost(one.proxy, one.began - 0.1, one.ended + 1.0) or self._excuses_stand_in(one)

    def _lost(self, who: str, since: float, until: float) -> bool:
        return any(name == who and since <= at <= until for name, at in self.deaths)

    def _excuses_stand_in(self, one: Ended) -> bool:
        """Its proxy had just lost its worker, and the supervisor, which took it, died before it said a word."""
        was_down = self._lost(one.proxy, one.began - _DOWN_S, one.began)
        return one.is_silent and was_down and self._lost(SUPERVISOR, one.began, one.ended + 1.0)


# --- the load -------------------------------------------------------------------------------------


class Client(threading.Thread):
    """Asks one proxy without rest, each time over a new connection; plain and streamed in turn."""

    def __init__(self, diary: Diary, proxy: str, port: int, stop: threading.Event, number: int) -> None:
        super().__init__(name=f"client of {proxy}", daemon=True)
        self._diary = diary
        self._proxy = proxy
        self._port = port
        self._stop_asking = stop
        self._number = number

    def run(self) -> None:
        count = 0
        dice = random.Random(self._number)
        while not self._stop_asking.wait(dice.uniform(0, _LONG_REST_S) if self._proxy == LAZY else _REST_S):
            count += 1
            self._ask(f"n{self._number}-{count}", streamed=bool((count + self._number) % 2))

    def _ask(self, nonce: str, *, streamed: bool) -> None:
        words = f"{nonce} " + " ".join(f"w{number}" for number in range(20))
        slowly = "echo:slow 20ms\n" if streamed and self._proxy != FAR else ""
        host = "::1" if self._number % 3 == 0 and _HAS_IPV6 else "127.0.0.1"
        began = self._diary.now()
        try:
            status, headers, body = _exchange(host, self._port, message(slowly + words, stream=streamed))
            how, detail = judge(self._proxy, words, status, headers, body, streamed=streamed)
        except ConnectionRefusedError:
            how, detail = "refused", host
        except TimeoutError:
            how, detail = "silence", ""
        except http.client.IncompleteRead as error:
            how, detail = judge_cut(error.partial, streamed=streamed)
        except (http.client.HTTPException, OSError) as error:
            how, detail = "cut", repr(error)
        self._diary.request(Ended(self._proxy, began, self._diary.now(), how, detail))


def _exchange(host: str, port: int, body: Any) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_LIMIT_S)
    try:
        connection.request("POST", "/v1/messages", json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, headers, response.read()
    finally:
        connection.close()


def judge(
    proxy: str, words: str, status: int, headers: dict[str, str], body: bytes, *, streamed: bool
) -> tuple[str, str]:
    """Of an answer that came to its end: right, an error that says so, or a lie."""
    if status != 200:
        return _judge_refusal(proxy, status, headers, body)
    if not streamed:
        said = "".join(block.get("text", "") for block in json.loads(body)["content"])
        return ("ok", "") if said == words else ("wrong", f"{said!r} instead of {words!r}")
    try:
        stream = grammar.check(body)
    except grammar.Ungrammatical as error:
        return "wrong", str(error)
    if stream.error is not None:
        return "error", f"in the stream: {stream.error['error']}"
    return ("ok", "") if stream.text == words else ("wrong", f"{stream.text!r} instead of {words!r}")


def _judge_refusal(proxy: str, status: int, headers: dict[str, str], body: bytes) -> tuple[str, str]:
    said = f"{status} {body[:200]!r}"
    if status not in (_FAR_STATUSES if proxy == FAR else _OUR_STATUSES):
        return "wrong", said
    try:
        document = json.loads(body)
        shaped = document["type"] == "error" and document["error"]["type"] and document["error"]["message"]
    except (ValueError, KeyError, TypeError):
        shaped = None
    return ("error", said) if shaped else ("wrong", said)


def judge_cut(partial: bytes, *, streamed: bool) -> tuple[str, str]:
    """What came before a cut must be a beginning, and must not say that it is the end."""
    if not streamed:
        return "cut", f"after {len(partial)} bytes"
    whole = partial[: partial.rfind(b"\n\n") + 2] if b"\n\n" in partial else b""
    try:
        grammar.check(whole, may_be_unfinished=True)
    except grammar.Ungrammatical as error:
        return "wrong", f"cut, and {error}"
    return "cut", f"after {len(partial)} bytes"


def far_script(seen: Seen) -> Reply:
    """An Ollama that says what it was told."""
    if seen.path == "/api/chat":
        words = seen.json()["messages"][-1]["content"].split(" ")
        pieces = [words[0], *(f" {word}" for word in words[1:])]
        documents: list[dict[str, Any]] = [
            {"done": False, "message": {"role": "assistant", "content": piece}} for piece in pieces
        ]
        last = {"role": "assistant", "content": ""}
        documents.append({"done": True, "done_reason": "stop", "message": last, "eval_count": 7})
        lines = tuple(json.dumps({"model": "far"} | one).encode() + b"\n" for one in documents)
        return Reply(
            body=lines, headers=(("content-type", "application/x-ndjson"),), framing="chunked", pause=0.01
        )
    known: dict[str, Any] = {
        "/api/tags": {"models": [{"name": "far", "model": "far", "digest": "far"}]},
        "/api/show": {"capabilities": ["completion"], "model_info": {}, "details": {"family": "llama"}},
        "/api/ps": {"models": []},
    }
    if seen.path in known:
        return Reply(body=json.dumps(known[seen.path]).encode())
    return Reply(404, b'{"error":"not found"}')


# --- the storm ------------------------------------------------------------------------------------


class Storm:
    def __init__(self, house: House, far: Upstream, seed: int) -> None:
        self.house = house
        self.far = far
        self.diary = Diary()
        self.wish: bool | None = None
        """Whether the extra proxy was wanted last; None while nobody can know."""
        self.ports: dict[str, int] = {}
        self.supervisor_failures: list[str] = []
        self._dice = random.Random(seed)
        self._wisher_dice = random.Random(seed + 1)
        self._calm = threading.Event()
        """The storm is over: no faults, no wishes."""
        self._rest = threading.Event()
        """Nobody asks any more."""
        self._over = threading.Event()
        """No supervisor is started any more."""
        self._threads: list[threading.Thread] = []
        self._timers: list[threading.Timer] = []
        self._far_is_up = True
        self._anew_since = 0.0
        """A supervisor that began before is about to be executed anew: seconds since the epoch."""
        self._asking: list[threading.Thread] = []
        self._ruled_at = time.monotonic()
        """When a supervisor was last known to have everything in its hands."""
        self.awaited = "nothing"
        """In the calm: what was the last to become as wished, and when it was not yet so."""

    # --- before ---

    def prepare(self) -> None:
        """Everything up and quiet."""
        self.house.start()
        for name in ECHOES:
            self.ports[name] = self.house.up(name)["port"]
        self.ports[FAR] = self.house.up(FAR, base_url=self.far.url)["port"]
        self.ports[LAZY] = self.house.up(LAZY, lazy=True, idle_stop_s=IDLE_S)["port"]
        for name in (*ECHOES, FAR):
            post(self.ports[name], message())  # what a worker opens with its first request is no leak
        self.fds = self.descriptors()
        self.fds[FAR] += _KEPT

    # --- during ---

    def rage(self, seconds: float) -> None:
        self._begin("init", self._play_init)
        for number, (name, port) in enumerate([*self.ports.items(), *self.ports.items()]):
            client = Client(self.diary, name, port, self._rest, number)
            self._threads.append(client)
            client.start()
        self._begin("wisher", self._play_user)
        until = time.monotonic() + seconds
        due = time.monotonic()
        names, weights = zip(*_FAULTS.items(), strict=True)
        while time.monotonic() < until:
            due += GAP_S
            if self._is_held_by([self._supervisor()]):
                self._ruled_at = time.monotonic()
            (name,) = self._dice.choices(names, weights)
            getattr(self, f"_do_{name}")()
            time.sleep(max(0.0, due - time.monotonic()))
        self._calm.set()
        for timer in self._timers:
            timer.join()
        if not self._far_is_up:
            self._do_provider()
        self.diary.note("calm")

    def _begin(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def end(self) -> None:
        """Stop everybody."""
        for event in (self._calm, self._rest):
            event.set()
        for thread in self._threads:
            if thread.name != "init":
                thread.join(ANSWER_LIMIT_S + 10)
        self._over.set()

    def _play_init(self) -> None:
        """Start a supervisor whenever there is none, as a service manager does."""
        while True:
            process = self.house.supervisors[-1]
            while process.poll() is None:
                if self._over.wait(0.02):
                    return
            if self._over.is_set():
                return
            if process.returncode != -signal.SIGKILL:
                self.supervisor_failures.append(f"it ended by itself with {process.returncode}")
            time.sleep(0.1)
            self.house.start(wait=False)

    def _play_user(self) -> None:
        """Wish the extra proxy up and down; what is not confirmed may or may not have been heard."""
        while not self._calm.wait(self._wisher_dice.uniform(0.1, 1.5)):
            up = self._wisher_dice.random() < 0.6
            self.wish = None
            try:
                answer = (
                    self.house.api(
                        "PUT",
                        "/v1/proxies/echo%2Fextra",
                        {"model": EXTRA, "port": 0, "wait": self._wisher_dice.random() < 0.5, "wait_s": 1},
                        timeout=10,
                    )
                    if up
                    else self.house.down(EXTRA, grace_s=0.2)
                )
            except (OSError, http.client.HTTPException) as error:
                self.diary.note("wish", f"{'up' if up else 'down'}: nobody heard it ({error!r})")
                continue
            if answer.status in (200, 404, 504):  # in 504 it goes on trying, 404 is as down as can be
                self.wish = up
            self.diary.note("wish", f"{'up' if up else 'down'}: {answer.status} {answer.body[:150]!r}")

    # --- the faults ---

    def _do_kill_worker(self) -> None:
        how = self._dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV])
        if (victim := self._some_worker()) is not None:
            self._strike(*victim, how)

    def _do_pause_worker(self) -> None:
        self._pause(self._some_worker(), self._dice.uniform(0.05, 1.5))

    def _do_freeze_worker(self) -> None:
        """For ever: it has to be found and replaced."""
        if (victim := self._some_worker()) is not None:
            self._strike(*victim, signal.SIGSTOP)

    def _do_kill_supervisor(self) -> None:
        if self._is_held_by(self._holders()):
            self._kill_supervisor()

    def _do_pause_supervisor(self) -> None:
        self._pause(("supervisor", self._supervisor()), self._dice.uniform(0.05, 1.0))

    def _do_kill_both(self) -> None:
        victim = self._some_worker()
        if victim is not None and self._is_held_by(self._holders()):
            self._strike(*victim, signal.SIGKILL)
            self._kill_supervisor()

    def _do_kill_holder(self) -> None:
        holders = self._holders()
        if self._is_held_by([self._supervisor()]):
            for pid in holders:
                self._strike("holder", pid, signal.SIGKILL)

    def _do_kill_fork_server(self) -> None:
        for pid in fork_servers_of(self.house):
            self._strike("fork server", pid, signal.SIGKILL)

    def _do_pause_fork_server(self) -> None:
        for pid in fork_servers_of(self.house):
            self._pause(("fork server", pid), self._dice.uniform(0.05, 2.0))

    def _do_restart(self) -> None:
        name = self._dice.choice([*self.ports, EXTRA])
        self._ask(
            "restart", lambda: self.house.restart(name, wait_s=0.05, grace_s=self._dice.choice([0.3, 60]))
        )

    def _do_daemon_restart(self) -> None:
        asked_at = time.time()

        def restart() -> Any:
            answer = self.house.api("POST", "/v1/daemon/restart", timeout=5)
            if answer.status == 200:
                self._anew_since = max(self._anew_since, asked_at)
            return answer

        self._ask("daemon-restart", restart)

    def _do_garbage(self) -> None:
        """On one of the supervisor's sockets, or half a request at a worker."""
        name = self._dice.choice(["control.sock", "workers.sock", "worker"])
        data = self._dice.choice(
            [self._dice.randbytes(200) + b"\n", b"GET /v1/proxies HTTP/1.1\r\nhos", b"{}\n"]
        )
        self.diary.note("garbage", f"{name} {data[:20]!r}")
        try:
            with socket.socket(socket.AF_INET if name == "worker" else socket.AF_UNIX) as sock:
                sock.settimeout(0.1)
                port = self.ports[self._dice.choice(ECHOES)]
                sock.connect(
                    ("127.0.0.1", port) if name == "worker" else str(self.house.runtime / "modelproxy" / name)
                )
                sock.sendall(data)
                sock.recv(100)
        except OSError:
            pass

    def _do_look(self) -> None:
        self._ask("look", lambda: self.house.api("GET", "/v1/proxies?all=1", timeout=2))

    def _do_provider(self) -> None:
        self.diary.note("provider", "down" if self._far_is_up else "up")
        if self._far_is_up:
            self.far.stop()
        else:
            self.far.start()
        self._far_is_up = not self._far_is_up

    # --- how they are done ---

    def _workers(self) -> list[tuple[str, int]]:
        """From the state file, which can be read whoever is dead; only what is alive and of this home."""
        try:
            saved = json.loads((self.house.state / "state.json").read_text())
        except (OSError, ValueError):
            return []
        pids = [
            (proxy["name"], worker["pid"])
            for proxy in saved["proxies"]
            for worker in proxy["workers"]
            if worker["pid"]
        ]
        return [(name, pid) for name, pid in pids if is_alive(pid) and self.house.is_ours(pid)]

    def _some_worker(self) -> tuple[str, int] | None:
        """One whose port somebody else holds as well."""
        workers = self._workers()
        if not workers:
            return None
        name, pid = self._dice.choice(workers)
        port = self.ports.get(name)
        safe = port is None or any(_listens(hand, port) for hand in (*self._holders(), self._supervisor()))
        return (name, pid) if safe else None

    def _supervisor(self) -> int:
        return self.house.supervisors[-1].pid

    def _holders(self) -> list[int]:
        return self.house.processes_named(b"supervisor/holder.py")

    def _is_held_by(self, pids: list[int]) -> bool:
        """Whether these processes together have every port of the proxies that are always wanted."""
        return all(any(_listens(pid, port) for pid in pids) for port in self.ports.values())

    def _strike(self, name: str, pid: int, signum: signal.Signals) -> None:
        self.diary.note(signum.name, f"{name} pid {pid}")
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            return
        if signum not in (signal.SIGSTOP, signal.SIGCONT):
            self.diary.died(name)

    def _kill_supervisor(self) -> None:
        process = self.house.supervisors[-1]
        if process.poll() is None and time.monotonic() - self._ruled_at < _LEADERLESS_S:
            self.diary.note("SIGKILL", f"supervisor pid {process.pid}")
            process.kill()
            self.diary.died(SUPERVISOR)

    def _pause(self, victim: tuple[str, int] | None, seconds: float) -> None:
        if victim is None:
            return
        self._strike(*victim, signal.SIGSTOP)
        timer = threading.Timer(seconds, lambda: _go_on(victim[1]))
        self._timers.append(timer)
        timer.start()

    def _ask(self, what: str, ask: Callable[[], Any]) -> None:
        """In a thread: a fault does not wait for an answer."""

        def work() -> None:
            try:
                said = repr(ask())
            except (OSError, http.client.HTTPException) as error:
                said = repr(error)
            self.diary.note(what, said[:120])

        self._begin(what, work)
        self._asking.append(self._threads[-1])

    # --- after ---

    def converge(self, limit_s: float) -> float:
        """Until everything is as wished; how long it took. The load goes on meanwhile."""
        began = time.monotonic()
        for asking in self._asking:  # what was asked for last is to be carried out, too
            asking.join(max(0.0, began + limit_s - time.monotonic()))
        why = "no supervisor answers"
        for _ in attempts(began + limit_s - time.monotonic(), 0.05):
            try:
                if self.house.api("GET", "/v1/version").json["started_at"] < self._anew_since:
                    continue
                why = self._astray(self.house.ps(stopped=True)) or self._stray()
            except (OSError, http.client.HTTPException, ValueError):
                continue
            took = time.monotonic() - began
            if not why and took <= limit_s:
                return took
            self.awaited = f"{why} ({took:.1f} s)"
        raise AssertionError(f"not as wished {limit_s:g} s after the storm: {why or 'only later'}")

    def _astray(self, rows: list[dict[str, Any]]) -> str:
        for row in rows:
            wanted = row["name"] in self.ports or (row["name"] == EXTRA and self._extra_wanted(row))
            states = _RESTING if row["name"] == LAZY else _SERVING if wanted else _STOPPED
            if row["wanted"] != wanted or row["draining"] or row["state"] not in states:
                return f"{row['name']} is {row['state']} ({row['detail']}), wanted: {wanted}"
        missing = self.ports.keys() - {row["name"] for row in rows}
        return f"{missing} are not there" if missing else ""

    def _stray(self) -> str:
        """Of the processes themselves: a supervisor does not show everyone that it still has to find."""
        house = self.house
        holders, makers = self._holders(), fork_servers_of(house)
        if (len(holders), len(makers)) != (1, 1):
            return f"holders {holders}, fork servers {makers}"
        processes = house.processes()
        if still := [pid for pid in processes if stands_still(pid)]:
            return f"{still} stand still and have yet to be found"
        known = {self._supervisor(), *holders, *makers, *(row["pid"] for row in house.ps())}
        if strangers := set(processes) - known:
            return f"{strangers} are nobody's"
        return ""

    def _extra_wanted(self, row: dict[str, Any]) -> bool:
        return bool(row["wanted"]) if self.wish is None else self.wish

    def descriptors(self, at_most: dict[str, int] | None = None) -> dict[str, int]:
        """How many each process has open: connections that are being closed are waited for."""
        (holder,), (maker,) = self._holders(), fork_servers_of(self.house)
        pids = {row["name"]: row["pid"] for row in self.house.ps() if row["name"] in (*ECHOES, FAR)}
        pids |= {"supervisor": self._supervisor(), "holder": holder, "fork server": maker}
        least = dict.fromkeys(pids, 1_000_000)
        for _ in attempts(10.0 if at_most else 1.0, 0.05):
            for who, pid in pids.items():
                least[who] = min(least[who], len(os.listdir(f"/proc/{pid}/fd")))
            if at_most and all(count <= at_most[who] for who, count in least.items()):
                break
        return least

    def explain_from_log(self) -> None:
        """Deaths that the supervisor brought about or noticed: the log knows them across its own deaths."""
        for stamp, proxy in _DIED.findall(self.house.daemon_log()):
            self.diary.deaths.append((proxy, self.diary.since_epoch(stamp)))

    def unexplained(self) -> list[Ended]:
        """Requests that nothing excuses."""
        self.explain_from_log()
        return [one for one in self.diary.ended if not self.diary.excuses(one)]

    def story(self) -> str:
        """For somebody who has to find out what happened."""
        faults = "\n".join(self.diary.lines)
        bad = "\n".join(str(one) for one in self.diary.ended if one.how != "ok" or one.ended - one.began > 5)
        log = self.house.daemon_log()
        return f"--- faults\n{faults}\n--- requests\n{bad}\n--- the log\n{log}\n--- {self.summary()}"

    def summary(self) -> str:
        ends = Counter(one.how for one in self.diary.ended)
        slowest = max(self.diary.ended, key=lambda one: one.ended - one.began, default="none")
        return (
            f"{sum(self.diary.faults.values())} lines of faults {dict(self.diary.faults)}; "
            f"{len(self.diary.ended)} requests {dict(ends)}, the slowest:{slowest}"
        )


# A supervisor is lost every four seconds or so: more often, and no window in which it waits for what may still
# live (ADOPT_WINDOW_S) would ever end.
_FAULTS = {
    "kill_worker": 6,
    "pause_worker": 4,
    "freeze_worker": 1,
    "kill_supervisor": 1,
    "pause_supervisor": 1.5,
    "kill_both": 0.5,
    "kill_holder": 1.5,
    "kill_fork_server": 1,
    "pause_fork_server": 0.5,
    "restart": 4,
    "daemon_restart": 1,
    "garbage": 3,
    "look": 2,
    "provider": 1.5,
}
# What ends a worker by the supervisor's hand, or is found when it is already over.
_DIED = re.compile(
    r"^(\S+)Z (\S+): (?:died|roll-failed|left|stopped|hung|overdue|slow-start|failed): ", re.MULTILINE
)


@contextmanager
def storm(seed: int) -> Iterator[Storm]:
    """Prepared, and at the end nothing of it runs any more; a failure tells its story."""
    with ExitStack() as stack:
        far = stack.enter_context(Upstream(far_script))
        house = stack.enter_context(House(**POLICY))
        storm = Storm(house, far, seed)
        stack.callback(storm.end)
        try:
            storm.prepare()
            yield storm
        except BaseException:
            story = Path(f"{house.home}.story")
            story.write_text(storm.story())
            print(f"seed {seed}; the story is in {story}")  # noqa: T201  # pytest shows it with the failure
            raise


def _listens(pid: int, port: int) -> bool:
    try:
        return listens(pid, port)
    except OSError:
        return False


def _go_on(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        pass
