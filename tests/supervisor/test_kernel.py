"""The operating system's answers, about real processes and sockets."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from fakes.house import wait_gone

from modelproxy.supervisor import kernel
from modelproxy.supervisor.kernel import Exit

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")


class Child:
    """A process that waits until it is told how to end."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(["/bin/sh", "-c", "read code && exit $code"], stdin=subprocess.PIPE)
        self.pid = self.process.pid
        self.pidfd = kernel.open_pidfd(self.pid)

    def exit(self, code: int) -> None:
        assert self.process.stdin is not None  # a pipe
        self.process.stdin.write(b"%d\n" % code)
        self.process.stdin.flush()

    def close(self) -> None:
        if self.process.returncode is None:
            try:
                os.kill(self.pid, signal.SIGKILL)
                self.process.wait()
            except ProcessLookupError:
                self.process.returncode = 0  # reaped by what is tested
        if self.pidfd is not None:
            os.close(self.pidfd)
        assert self.process.stdin is not None  # a pipe
        self.process.stdin.close()


@pytest.fixture
def child() -> Iterator[Child]:
    made = Child()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (Exit(code=0), "exit 0"),
        (Exit(code=78), "exit 78"),
        (Exit(signal=9), "SIGKILL"),
        (Exit(signal=60), "signal 60"),
        (Exit(), "exit unobserved"),
    ],
)
def test_an_end_in_words(outcome: Exit, text: str) -> None:
    assert str(outcome) == text


@pytest.mark.parametrize("with_pidfd", [True, False])
@pytest.mark.parametrize("code", [0, 1, 78])
async def test_how_a_child_ended(child: Child, code: int, with_pidfd: bool) -> None:
    """It is reaped as well."""
    child.exit(code)

    assert await kernel.wait_exit(child.pid, child.pidfd if with_pidfd else None) == Exit(code=code)
    assert kernel.run_state(child.pid) is None
    child.process.returncode = code


@pytest.mark.parametrize("with_pidfd", [True, False])
async def test_which_signal_a_child_died_of(child: Child, with_pidfd: bool) -> None:
    kernel.send_signal(child.pid, child.pidfd, signal.SIGKILL)

    assert await kernel.wait_exit(child.pid, child.pidfd if with_pidfd else None) == Exit(signal=9)
    child.process.returncode = -9


_TWO_THREADS = """
import faulthandler, signal, sys, threading
faulthandler.enable()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGABRT})
def wait():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGABRT})
    print(f"{threading.main_thread().ident:x}", flush=True)
    threading.Event().wait()
threading.Thread(target=wait, daemon=True).start()
sys.stdin.readline()
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGABRT})
"""


@pytest.mark.parametrize("way", ["Linux 6.9", "older", "without pidfd"])
def test_a_signal_that_the_main_thread_is_to_take(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though another one stands ready to, and it does not yet. With what goes to the process it were the other."""
    if way == "older":
        monkeypatch.setattr(kernel, "_PIDFD_SIGNAL_THREAD", 1 << 30)  # which no kernel knows
    command = [sys.executable, "-I", "-c", _TWO_THREADS]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        pidfd = kernel.open_pidfd(process.pid)
        assert process.stdout is not None  # a pipe
        assert pidfd is not None  # on Linux
        main_thread = int(process.stdout.readline(), 16)
        given = None if way == "without pidfd" else pidfd
        kernel.send_signal_to_main_thread(process.pid, given, signal.SIGABRT)
        _, said = process.communicate("\n", timeout=60)
        kernel.send_signal_to_main_thread(process.pid, pidfd, signal.SIGABRT)  # it is gone: no error
        os.close(pidfd)

    assert process.returncode == -signal.SIGABRT
    (current,) = re.findall(r"Current thread 0x([0-9a-f]+)", said)
    assert int(current, 16) == main_thread


async def test_waiting_for_a_child_can_be_given_up(child: Child) -> None:
    """It lives on."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await kernel.wait_exit(child.pid, child.pidfd)

    assert scope.cancelled_caught
    assert kernel.run_state(child.pid) in ("S", "R")


async def test_how_somebody_else_s_child_ended() -> None:
    """Adopted workers are not ours to reap; newer kernels tell nevertheless."""
    # The inner shell reads from a copy of our pipe, because `&` alone would give it /dev/null.
    script = "exec 3<&0; sh -c 'echo $$; read code <&3; exit $code' & wait $!; read end <&3"
    parent = subprocess.Popen(  # noqa: ASYNC220  # made in a moment
        ["/bin/sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert parent.stdin is not None  # a pipe
    assert parent.stdout is not None  # a pipe
    pid = int(parent.stdout.readline())
    pidfd = kernel.open_pidfd(pid)
    assert pidfd is not None  # on Linux
    parent.stdin.write(b"7\n")
    parent.stdin.flush()
    outcome = await kernel.wait_exit(pid, pidfd)
    parent.communicate(b"\n")
    os.close(pidfd)

    assert outcome in (Exit(code=7), Exit())


def test_a_process_that_is_gone() -> None:
    """No error anywhere: its end is what we wanted or will hear of."""
    child = Child()
    child.process.kill()
    child.process.wait()

    with pytest.raises(ProcessLookupError):
        kernel.open_pidfd(child.pid)
    kernel.send_signal(child.pid, child.pidfd, signal.SIGTERM)
    kernel.send_signal(child.pid, None, signal.SIGTERM)
    assert kernel.start_time(child.pid) is None
    assert kernel.run_state(child.pid) is None
    assert kernel.cpu_ticks(child.pid) is None
    assert not kernel.is_traced(child.pid)
    child.close()


def test_identity_is_start_time_and_boot(child: Child) -> None:
    """Steady for one process, later for another."""
    ours = kernel.start_time(os.getpid())
    theirs = kernel.start_time(child.pid)

    assert ours is not None
    assert theirs is not None
    assert kernel.start_time(os.getpid()) == ours <= theirs
    assert kernel.boot_id() == kernel.boot_id() != ""


def test_a_name_with_brackets_does_not_confuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second field of /proc/PID/stat is the program's own choice."""
    fields = " ".join(str(number) for number in range(4, 53))
    monkeypatch.setattr(Path, "read_text", lambda self, **_: f"42 (a) Z (b) T {fields}\n")

    assert kernel.run_state(42) == "T"
    assert kernel.start_time(42) == 22
    assert kernel.cpu_ticks(42) == 14 + 15


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_a_system_that_has_no_pidfds_after_all(
    child: Child, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Python may know the call and the kernel not, or a sandbox forbids it."""

    def refused(_: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pidfd_open", refused)

    assert kernel.open_pidfd(child.pid) is None
    os.kill(child.pid, signal.SIGKILL)
    child.process.wait()
    with pytest.raises(ProcessLookupError):
        kernel.open_pidfd(child.pid)


def test_a_name_that_is_no_text_does_not_confuse() -> None:
    """A process may take any name, and the kernel cuts a long one in the middle of a letter."""
    program = (
        "import socket\n\nopen('/proc/self/comm', 'wb').write(b'\\xd0\\xbf\\xff'); s = socket.socket();"
        "s.bind(('127.0.0.1', 0)); s.listen(); print(s.getsockname()[1], flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None  # a pipe
        port = int(process.stdout.readline())

        assert kernel.start_time(process.pid) is not None
        assert not kernel.is_traced(process.pid)
        holder = kernel.port_holder(port)
        assert holder is not None
        assert holder.pid == process.pid
        assert "\n" not in holder.command
        process.kill()


async def test_waiting_for_children_takes_nobody_s_thread() -> None:
    """Without pidfds each worker costs a thread for its whole life; the others are for everybody."""
    children = [Child() for _ in range(2)]
    async with trio.open_nursery() as nursery:
        trio.to_thread.current_default_thread_limiter().total_tokens = 1
        for one in children:
            nursery.start_soon(kernel.wait_exit, one.pid, None)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(20):
            assert await trio.to_thread.run_sync(os.getpid) == os.getpid()
        nursery.cancel_scope.cancel()
    for one in children:
        one.exit(0)  # a thread waits for it still
        assert wait_gone(one.pid)
        one.close()


def test_a_stopped_process_shows(child: Child) -> None:
    os.kill(child.pid, signal.SIGSTOP)
    os.waitpid(child.pid, os.WUNTRACED)

    assert kernel.run_state(child.pid) == "T"
    assert not kernel.is_traced(child.pid)


def test_a_process_is_found_by_the_end_of_its_command_line(child: Child) -> None:
    child.exit(0)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    assert os.getpid() in kernel.pids_called(sys.orig_argv[-1])
    assert kernel.pids_called("-c", "read code && exit $code") == []  # a zombie has none
    assert kernel.writes_to(os.getpid()) == os.readlink("/proc/self/fd/1")
    assert kernel.writes_to(child.pid) is None


def test_own_cpu_time_advances() -> None:
    before = kernel.cpu_ticks(os.getpid())
    assert before is not None
    while (now := kernel.cpu_ticks(os.getpid())) == before:
        sum(range(10_000))

    assert now is not None
    assert now > before


# --- sockets --------------------------------------------------------------------------------------


def test_who_is_at_the_other_end() -> None:
    near, far = socket.socketpair(socket.AF_UNIX)
    with near, far:
        assert kernel.peer_of(near) == kernel.Peer(os.getpid(), os.getuid())


def test_connections_that_wait_are_counted() -> None:
    """From any copy of the socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener, listener.dup() as copy:
        assert kernel.accept_queue(listener) == 0
        clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
        assert kernel.accept_queue(copy) == 3
        listener.accept()[0].close()
        assert kernel.accept_queue(copy) == 2
        for one in clients:
            one.close()


def test_what_has_no_queue() -> None:
    with socket.socket(socket.AF_UNIX) as other:
        assert kernel.accept_queue(other) is None


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_holder_of_a_port_is_named(family: socket.AddressFamily, host: str) -> None:
    """With what it was started as."""
    with socket.create_server((host, 0), family=family) as listener:
        holder = kernel.port_holder(listener.getsockname()[1])

    assert holder is not None
    assert holder.pid == os.getpid()
    assert "python" in holder.command or "pytest" in holder.command


def test_a_free_port_has_no_holder() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound, but nobody listens
        assert kernel.port_holder(bound.getsockname()[1]) is None


def test_the_boot_is_known_also_when_nothing_can_be_opened_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty one in the state file would make strangers of our own workers."""
    known = kernel.boot_id()

    def no_descriptors(*_: object, **__: object) -> str:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "read_text", no_descriptors)

    assert kernel.boot_id() == known


# --- memory ---------------------------------------------------------------------------------------


def test_how_much_memory_a_process_has() -> None:
    """As the kernel's own summary says."""
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]

    assert kernel.rss(os.getpid()) == pytest.approx(int(line.split()[1]) * 1024, rel=0.1)
    assert kernel.rss(5_000_000) is None


def test_a_worker_is_offered_before_us() -> None:
    own = int(Path("/proc/self/oom_score_adj").read_text())
    child = Child()
    try:
        kernel.offer_to_oom_killer(child.pid)
        assert int(Path(f"/proc/{child.pid}/oom_score_adj").read_text()) == min(1000, own + 50)
    finally:
        child.close()
    kernel.offer_to_oom_killer(5_000_000)  # it has just died: nobody's loss


@pytest.mark.parametrize(
    ("cgroups", "expected"),
    [
        ("0::/a/x.scope\n", ["a/x.scope/memory.events", "unified/a/x.scope/memory.events"]),
        ("0::/\n", ["memory.events", "unified/memory.events"]),
        ("5:cpu,cpuacct:/a\n4:memory:/a/b\n", ["memory/a/b/memory.oom_control"]),
        (
            "4:hugetlb,memory:/a:b\n0::/c\n",
            ["memory/a:b/memory.oom_control", "c/memory.events", "unified/c/memory.events"],
        ),
        ("4:pids:/a", []),
        ("", []),
    ],
    ids=["version 2", "its own namespace", "version 1", "both", "neither", "nothing"],
)
def test_where_the_kernel_counts_its_kills(cgroups: str, expected: list[str], tmp_path: Path) -> None:
    assert kernel.oom_counter_in(cgroups, tmp_path) == [tmp_path / path for path in expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("low 0\nhigh 3\nmax 9\noom 2\noom_kill 7\noom_group_kill 1\n", 7),
        ("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n", 4),
        ("oom_kill_disable 0\nunder_oom 0\n", None),
        ("oom_kill many\n", None),
        ("", None),
    ],
)
def test_how_many_were_killed(text: str, expected: int | None, tmp_path: Path) -> None:
    """Both versions' files; an old kernel does not count."""
    counter = tmp_path / "memory.events"
    assert kernel.oom_kills(counter) is None
    counter.write_text(text)

    assert kernel.oom_kills(counter) == kernel.oom_kills_in(text) == expected


def test_the_counter_of_a_process_that_is_gone() -> None:
    assert kernel.oom_counter(5_000_000) is None
