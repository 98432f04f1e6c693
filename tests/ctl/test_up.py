"""Up and down where the supervisor is slow, stopping or strange."""

from __future__ import annotations

import io
import threading

import pytest
from fakes.control import Control, fault, view

from modelproxy.ctl import up
from modelproxy.ctl.faults import Fault


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_request_holds_only_what_was_said() -> None:
    assert up.request(model="a/b") == {"model": "a/b"}
    assert up.request(model="a/b", port=0, wait=False) == {"model": "a/b", "port": 0, "wait": False}


def test_a_stopping_supervisor_is_waited_for_and_the_next_one_asked(control: Control) -> None:
    """It says so once; its process is gone by then, and another one answers."""
    control.paths.lock.write_text("0\n")
    control.once["PUT"] = fault(503, "stopping", "bye")

    assert up.bring_up(control.paths, {"model": "echo/demo"})["name"] == "echo/demo"
    assert control.paths_asked.count("PUT /v1/proxies/echo%2Fdemo?shell=1") == 2


def test_a_supervisor_that_goes_on_stopping_is_reported(control: Control) -> None:
    control.paths.lock.write_text("0\n")
    control.replies["PUT"] = fault(503, "stopping", "bye")

    with pytest.raises(Fault) as refused:
        up.bring_up(control.paths, {"model": "echo/demo", "wait_s": 0.05})

    assert refused.value.code == "stopping"


def test_several_drain_at_the_same_time(control: Control) -> None:
    """Neither answer comes before both are asked for."""
    control.proxies = {name: view(name, port=port) for name, port in (("a/b", 1), ("c/d", 2))}
    both = threading.Barrier(2, timeout=5)
    original = control._down

    def together(target: str) -> object:
        both.wait()
        return original(target)

    control._down = together  # type: ignore[method-assign,assignment]  # as above
    answers = up.take_down(control.paths, ["a/b", "c/d"], None)

    assert [answer["name"] for answer in answers if isinstance(answer, dict)] == ["a/b", "c/d"]


@pytest.mark.slow
@pytest.mark.parametrize(("stderr", "expected"), [(Terminal(), True), (io.StringIO(), False)])
def test_who_waits_at_a_terminal_is_told_for_whom(
    control: Control, monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO, expected: bool
) -> None:
    control.proxies = {"a/b": view("a/b", in_flight=2), "c/d": view("c/d", port=2, pid=2, in_flight=5)}
    control.hold["DELETE"] = threading.Event()
    monkeypatch.setattr("sys.stderr", stderr)
    original = up.Waiting.__call__

    def said(self: up.Waiting, seconds: float) -> None:
        original(self, seconds)
        control.hold["DELETE"].set()

    monkeypatch.setattr(up.Waiting, "__call__", said)
    up.take_down(control.paths, ["a/b"], None)

    assert (stderr.getvalue() == "waiting for 2 requests of a/b …\n") is expected


def test_an_unexpected_error_is_not_swallowed(control: Control) -> None:
    control.replies["DELETE"] = (200, 5)

    with pytest.raises(TypeError):
        up.take_down(control.paths, ["a/b", "c/d"], None)


def test_a_missing_key_of_a_target_goes_to_its_provider_only(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shell may have what the supervisor lacks; once said, it is not said again."""
    monkeypatch.setenv("FAR_KEY", "sk-far")
    lacking = Fault("missing_api_key", "far needs an API key", env="FAR_KEY", provider="far")
    asked = {"model": "near/a", "fallback": ["far/b"]}
    richer = up._with_key(asked, lacking)

    assert richer == {**asked, "fallback_keys": {"far": "sk-far"}}
    assert richer is not None
    assert up._with_key(richer, lacking) is None
    own = {"model": "far/a", "fallback_keys": {"far": "sk-far"}}
    assert up._with_key({"model": "far/a"}, lacking) == own
    assert up._with_key(asked, Fault("missing_api_key", "no", env="UNSET_KEY", provider="far")) is None


@pytest.mark.parametrize("value", [None, "", "sk-shell"])
def test_a_shell_that_is_asked_for_a_variable_gives_it_or_says_that_it_has_none(
    control: Control, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    """So a supervisor that has another key goes on with that one, and nobody is asked twice."""
    monkeypatch.delenv("FAR_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("FAR_KEY", value)
    status, document = fault(409, "missing_api_key", "far needs an API key")
    control.once["PUT"] = (status, {"error": {**document["error"], "env": "FAR_KEY", "provider": "far"}})
    up.bring_up(control.paths, {"model": "echo/demo"})
    (_, first, _), (_, second, body) = [one for one in control.asked if one[0] == "PUT"]

    assert first == "/v1/proxies/echo%2Fdemo?shell=1"
    assert second == (first if value else f"{first}&lacks=FAR_KEY")
    assert body.get("fallback_keys") == ({"far": "sk-shell"} if value else None)
