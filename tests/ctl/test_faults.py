"""Exit codes and last words."""

from __future__ import annotations

import pytest

from modelproxy.ctl import faults, typed
from modelproxy.ctl.faults import Fault, guard
from modelproxy.supervisor import protocol, quotas, routes

EXPECTED_EXIT = {
    "bad_request": 2,
    "bad_model_id": 2,
    "ambiguous_name": 2,
    "unsupported_provider": 2,
    "bad_port": 2,
    "usage": 2,
    "daemon_not_running": 3,
    "daemon_timeout": 3,
    "daemon_gone": 3,
    "daemon_start_failed": 3,
    "port_in_use": 1,
    "unknown_proxy": 1,
    "start_failed": 1,
    "something_of_a_newer_supervisor": 1,
}


@pytest.mark.parametrize(("code", "expected"), EXPECTED_EXIT.items())
def test_exit_code_follows_from_the_code(code: str, expected: int) -> None:
    assert Fault(code, "no").exit_code == expected


def test_every_request_error_is_a_usage_error_and_no_other() -> None:
    """A new 400 code in the protocol must get its exit code here."""
    exits = {code: Fault(code, "").exit_code for code in protocol.STATUS}

    assert {code for code, status in protocol.STATUS.items() if status == 400} == {
        code for code, number in exits.items() if number == faults.EXIT_USAGE
    }


def test_limits_are_those_of_the_supervisor() -> None:
    """Said twice as well: names, least and most."""
    ours = {name: (least, most) for name, _, least, most in typed.LIMITS.values()}

    assert ours == quotas.RANGES
    assert typed.OWN == routes.OWN


def test_constants_are_those_of_the_protocol() -> None:
    """They are said twice, because importing the protocol costs more than a `ps`."""
    assert (
        faults.EXIT_FAILED,
        faults.EXIT_USAGE,
        faults.EXIT_NO_DAEMON,
        faults.DEFAULT_PORT,
        faults.DEFAULT_WAIT_S,
        faults.MAX_GRACE_S,
        faults.MAX_IDLE_STOP_S,
        faults.MIN_MAX_RSS,
    ) == (
        protocol.EXIT_FAILED,
        protocol.EXIT_USAGE,
        protocol.EXIT_NO_DAEMON,
        protocol.DEFAULT_PORT,
        protocol.DEFAULT_WAIT_S,
        protocol.MAX_GRACE_S,
        protocol.MAX_IDLE_STOP_S,
        protocol.MIN_MAX_RSS,
    )


def _raise(error: BaseException) -> int:
    raise error


def test_a_fault_is_two_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert guard(lambda: _raise(Fault("port_in_use", "Port 1 is taken", "take 2")), as_json=False) == 1
    assert capsys.readouterr() == ("", "error: Port 1 is taken\nhint: take 2\n")


def test_each_mistake_of_a_file_has_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    faults.show(Fault("bad_config", "/c:1: a: no\n/c:3: b: no; really"), as_json=False)

    assert capsys.readouterr().err == "error: /c:1: a: no\n/c:3: b: no; really\n"


def test_a_fault_as_json_is_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    guard(lambda: _raise(Fault("port_in_use", "taken", "take 2")), as_json=True)

    out, err = capsys.readouterr()
    assert (out, err) == ('{"error": {"code": "port_in_use", "message": "taken", "hint": "take 2"}}\n', "")


def test_the_unexpected_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODELPROXY_DEBUG", raising=False)

    assert guard(lambda: _raise(LookupError("odd")), as_json=False) == 1
    assert capsys.readouterr().err == f"error: unexpected LookupError: odd\nhint: {faults.REPORT}\n"


def test_the_unexpected_shows_itself_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELPROXY_DEBUG", "1")

    with pytest.raises(LookupError):
        guard(lambda: _raise(LookupError("odd")), as_json=False)


def test_interrupted() -> None:
    assert guard(lambda: _raise(KeyboardInterrupt()), as_json=False) == 130


def test_words_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    faults.talk("red \x1b[31m and a bell \a")

    assert capsys.readouterr().err == "red �[31m and a bell �\n"
