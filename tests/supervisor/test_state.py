"""The saved wanted set."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import attrs
import pytest
from fakes import descriptors
from fakes.story import SPEC

from modelproxy.supervisor import state
from modelproxy.supervisor.facts import Care, Death
from modelproxy.supervisor.state import DaemonRecord, ProxyRecord, Saved, WorkerRecord
from modelproxy.supervisor.tally import Tally
from modelproxy.worker.contract import Limits

WORKERS = [WorkerRecord(3, 77, 12345, "boot", "token", 1.5), WorkerRecord(4, None, None, "boot", "other")]
RECORD = ProxyRecord(
    "echo/demo",
    True,
    "rolling",
    3457,
    SPEC,
    4,
    restarts=2,
    needs_key=True,
    workers=WORKERS,
    pid_file="/x.pid",
    care=Care(lazy=True, idle_stop_s=900.0, max_rss=2**29),
    key_given=False,
    address_given=False,
    idle=True,
    deaths=[Death(1.75e9, "SIGKILL", 3, 77, was_ready=True, lived_s=4.5), Death(1.76e9, "exit 1", 4)],
    past=Tally(12, last_error="it said no", failures=2, cost_usd=0.25, unpriced=1),
)
SAVED = Saved(DaemonRecord(1, 2.0), [RECORD, attrs.evolve(RECORD, name="ü/☃", wanted=False, workers=[])], 3.0)


def spoil(path: Path, **changes: Any) -> None:
    """A good file with something wrong in its first proxy (or at the top, for `version`)."""
    state.save(path, SAVED)
    document = json.loads(path.read_bytes())
    if "version" in changes:
        document |= changes
    else:
        document["proxies"][0] |= changes
    path.write_text(json.dumps(document))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.json"


def test_what_is_saved_is_loaded(path: Path) -> None:
    """Also a spec with limits of its own."""
    own = attrs.evolve(RECORD, spec=attrs.evolve(SPEC, limits=Limits(max_body=7), base_url="http://b"))
    saved = attrs.evolve(SAVED, proxies=[*SAVED.proxies, own])
    state.save(path, saved)

    assert state.load(path) == (saved.proxies, None)


def test_only_its_owner_may_read_it(path: Path) -> None:
    """Whatever the umask says."""
    old = os.umask(0)
    try:
        state.save(path, SAVED)
    finally:
        os.umask(old)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["state.json"]


def test_none_yet(path: Path) -> None:
    assert state.load(path) == ([], None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\x00\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"version": 1}',
        b"[" * 100_000,
        b"9" * 5000,
    ],
    ids=lambda data: repr(data[:16]),
)
def test_garbage_is_moved_away(path: Path, data: bytes) -> None:
    """And nothing is believed of it."""
    path.write_bytes(data)
    proxies, warning = state.load(path)

    assert proxies == []
    assert warning is not None
    assert "state.json.bad" in warning
    assert path.with_name("state.json.bad").read_bytes() == data
    assert state.load(path) == ([], None)


def test_garbage_that_cannot_be_moved_away_is_no_obstacle(path: Path) -> None:
    path.write_bytes(b"{")
    (path.with_name("state.json.bad") / "precious").mkdir(parents=True)
    proxies, warning = state.load(path)

    assert proxies == []
    assert warning is not None
    assert "will be written over" in warning
    state.save(path, SAVED)
    assert state.load(path) == (SAVED.proxies, None)


@pytest.mark.parametrize("length", [1, 100, 1000])
def test_a_truncated_file_is_moved_away(path: Path, length: int) -> None:
    state.save(path, SAVED)
    path.write_bytes(path.read_bytes()[:-length])

    assert state.load(path)[0] == []
    assert not path.exists()


def test_fields_of_a_newer_program_cost_nothing(path: Path) -> None:
    """Going back to an older version must not lose the wishes."""
    spoil(path, mood="good")

    assert state.load(path) == (SAVED.proxies, None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 2}, "version 2, this program writes 1"),
        ({"version": "1"}, "version '1'"),
        ({"port": "80"}, "$.proxies[0].port"),
        ({"wanted": 1}, "$.proxies[0].wanted"),
        ({"spec": "x"}, "$.proxies[0].spec"),
        ({"workers": [{"generation": 1}]}, "$.proxies[0].workers[0]"),
    ],
)
def test_what_this_program_does_not_write_is_not_half_believed(
    path: Path, changes: dict[str, Any], words: str
) -> None:
    """A newer version's file, or a value of the wrong type: the warning says which."""
    spoil(path, **changes)
    proxies, warning = state.load(path)

    assert proxies == []
    assert warning is not None
    assert words in warning


def test_a_second_spoilt_file_replaces_the_first(path: Path) -> None:
    for text in ("one", "two"):
        path.write_text(text)
        state.load(path)

    assert path.with_name("state.json.bad").read_text() == "two"


def test_a_file_that_may_not_be_read_stays(path: Path) -> None:
    """It may be fine: it is not moved away."""
    path.mkdir()
    proxies, warning = state.load(path)

    assert (proxies, path.exists()) == ([], True)
    assert warning is not None
    assert "cannot be read" in warning


@pytest.mark.parametrize("call", ["open", "write", "fsync"])
def test_a_full_disk_leaves_the_old_file_whole(
    path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whatever point it strikes, and without leaking a descriptor."""
    state.save(path, SAVED)
    before = path.read_bytes()
    before_all = descriptors.count()
    with monkeypatch.context() as patch:

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(os, call, full)
        with pytest.raises(OSError, match="No space left"):
            state.save(path, attrs.evolve(SAVED, proxies=[]))

    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
    assert descriptors.back_to(before_all)
    state.save(path, attrs.evolve(SAVED, proxies=[]))
    assert state.load(path) == ([], None)


def test_only_what_is_new_is_put_into_words(path: Path) -> None:
    """With fifty proxies up, a save for one of them would else cost fifty times as much."""
    words: state.Words = {}
    state.save(path, SAVED, words)
    before = {name: text for name, (_, text) in words.items()}
    first, other = SAVED.proxies
    changed = attrs.evolve(SAVED, proxies=[attrs.evolve(first, restarts=7), other], written_at=4.0)
    state.save(path, changed, words)

    assert state.load(path) == (changed.proxies, None)
    assert words[other.name][1] is before[other.name]
    assert words[first.name][1] != before[first.name]
    state.save(path, attrs.evolve(SAVED, proxies=[other]), words)
    assert list(words) == [other.name], "and what is gone is not kept"


def test_short_writes_are_completed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    state.save(path, SAVED)

    assert state.load(path)[0] == SAVED.proxies


def test_tokens_are_not_in_reprs() -> None:
    """A log line with a record in it must not let others pose as a worker."""
    assert "token'" not in repr(SAVED)


def test_who_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    assert state.author(path) is None
    state.save(path, SAVED)
    assert state.author(path) == SAVED.daemon
    path.write_text("{")
    assert state.author(path) is None


def test_a_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "state.json"
    state.save(path, SAVED)

    assert state.load(path) == (SAVED.proxies, None)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
