"""What users type, right and wrong."""

from __future__ import annotations

import getpass
import io
import sys
from pathlib import Path

import pytest

from modelproxy.ctl import typed
from modelproxy.ctl.faults import EXIT_USAGE, Fault


@pytest.mark.parametrize(
    "text", ["ollama/codellama", "openrouter/anthropic/claude-3-haiku", "ollama/qwen:7b"]
)
def test_good_model_ids_pass_unchanged(text: str) -> None:
    assert typed.model_id(text) == text


@pytest.mark.parametrize(
    "text", ["", "invalid", "/x", "ollama/", "ollama", "a/b c", "a/b\n", "a\x1b/b", "a/b\u2028"]
)
def test_bad_model_ids_name_the_form(text: str) -> None:
    with pytest.raises(Fault) as refused:
        typed.model_id(text)

    assert refused.value.code == "bad_model_id"
    assert refused.value.exit_code == EXIT_USAGE
    assert "Expected: provider/model-name" in refused.value.message


@pytest.mark.parametrize(("text", "expected"), [("0", 0), ("1", 1), ("3457", 3457), ("65535", 65535)])
def test_ports(text: str, expected: int) -> None:
    assert typed.port(text) == expected


@pytest.mark.parametrize(
    "text", ["", "abc", "-1", "65536", "70000", "3457.0", "٣", "1_000", "9" * 5000, " 1"]
)
def test_bad_ports(text: str) -> None:
    with pytest.raises(Fault) as refused:
        typed.port(text)

    assert (refused.value.code, refused.value.exit_code) == ("bad_port", EXIT_USAGE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30", 30),
        ("30s", 30),
        ("2m", 120),
        ("500ms", 0.5),
        ("1.5h", 5400),
        ("0", 0),
        (" 2 m ", 120),
        (".5", 0.5),
    ],
)
def test_durations(text: str, expected: float) -> None:
    assert typed.duration(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "s", "-1", "1e3", "nan", "inf", "5 days", "5w", "1.2.3", "٣s", "."])
def test_bad_durations(text: str) -> None:
    with pytest.raises(Fault, match="Invalid duration"):
        typed.duration(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("500M", 500 * 1024**2),
        (" 1.5g ", 1536 * 1024**2),
        ("512MiB", 2**29),
        ("512 mb", 2**29),
        ("32768K", 2**25),
        ("33554432", 2**25),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    assert typed.size(text) == expected


@pytest.mark.parametrize("text", ["", "M", "-1M", "1e9", "5T", "many", "1.2.3M", "٥٠M"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(Fault, match="Invalid size"):
        typed.size(text)


@pytest.mark.parametrize("text", ["1", "15M", "99999999999999G"])
def test_a_size_that_limits_nothing_or_everything(text: str) -> None:
    with pytest.raises(Fault, match="no limit for a worker: at least 16M, or 0 for none"):
        typed.size(text)


def test_an_idle_stop_is_a_second_a_week_or_never() -> None:
    assert [typed.idle_stop(text) for text in ("0", "1s", "7d")] == [0.0, 1.0, 604800.0]
    for text in ("0.5s", "8d"):
        with pytest.raises(Fault, match=r"too short|too long"):
            typed.idle_stop(text)


def test_a_duration_has_an_end() -> None:
    with pytest.raises(Fault, match="at most 24h"):
        typed.duration("25h")


def test_key_from_each_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MY_KEY", "from-env")
    (tmp_path / "key").write_text("from-file\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("from-stdin\nnext line\n"))

    assert typed.api_key("plain", None, None) == "plain"
    assert typed.api_key("-", None, None) == "from-stdin"
    assert typed.api_key(None, "MY_KEY", None) == "from-env"
    assert typed.api_key(None, None, str(tmp_path / "key")) == "from-file"
    assert typed.api_key(None, None, None) is None


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        (("a", "B", None), "only one"),
        (("  ", None, None), "empty"),
        (("secret\x00", None, None), "characters that no key has"),
        ((None, "NOT_SET_ANYWHERE", None), "NOT_SET_ANYWHERE is not set"),
        ((None, None, "/not/there"), "No such file"),
        ((None, None, "/proc/self/exe"), "not text"),
    ],
)
def test_bad_keys_are_refused_without_being_repeated(sources: tuple[str | None, ...], says: str) -> None:
    with pytest.raises(Fault, match=says) as refused:
        typed.api_key(*sources)

    assert "secret" not in refused.value.message
    assert refused.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("up a/b --api-key K --json", ("up a/b --api-key - --json", "K")),
        ("up a/b --api-key=K", ("up a/b --api-key=-", "K")),
        ("up a/b --api-key -", None),
        ("up a/b --api-key=-", None),
        ("up a/b --api-key", None),
        ("up a/b --api-key-env K", None),
        ("up -- --api-key K", None),
    ],
)
def test_a_key_in_the_arguments_is_found(argv: str, expected: tuple[str, str] | None) -> None:
    found = typed.without_key(argv.split())

    assert (None if found is None else (" ".join(found[0]), found[1])) == expected


# --- fallback and limits --------------------------------------------------------------------------


def test_fallbacks_keep_their_order() -> None:
    """`none` takes them back, which silence does not."""
    assert typed.fallback(["a/b", "anthropic", "c/d"], typed.model_id) == ["a/b", "anthropic", "c/d"]
    assert typed.fallback(["none"], typed.model_id) == []
    assert (typed.fallback([], typed.model_id), typed.fallback(None, typed.model_id)) == (None, None)
    for wrong, words in (["nonsense"], "Expected: provider/model-name"), (["a/b", "none"], "stands alone"):
        with pytest.raises(Fault, match=words):
            typed.fallback(wrong, typed.model_id)


def test_settings_are_limits_by_their_names_in_the_api() -> None:
    words = ["max_concurrent=2", "rpm=none", "queue-timeout=2m", "max_body=1M", "request_timeout=0"]

    assert typed.settings(words) == {
        "max_concurrent": 2,
        "rpm": 0,
        "queue_timeout_s": 120.0,
        "max_body": 1048576,
        "request_timeout_s": 0,
    }


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("rpm", "expected name=value"),
        ("rpm=", "expected name=value"),
        ("speed=3", 'There is no limit "speed"'),
        ("rpm=fast", 'rpm: "fast" is not a whole number from 0 on'),
        ("rpm=1.5", "not a whole number"),
        ("rpm=-1", '"-1" is not a whole number from 0 on'),
        ("rpm=²", "not a whole number"),
        ("rpm=1000001", "rpm must be from 1 to 1000000, or 0 for no limit"),
        ("queue_timeout=soon", 'queue_timeout: Invalid duration "soon"'),
        ("queue_timeout=1ms", "queue_timeout must be from 0.1 to 86400"),
        ("max_body=many", "Invalid size"),
    ],
)
def test_a_setting_that_means_nothing_is_refused_in_a_sentence(word: str, said: str) -> None:
    with pytest.raises(Fault, match=said):
        typed.settings([word])


def test_a_setting_is_said_once() -> None:
    with pytest.raises(Fault, match="rpm is given twice"):
        typed.settings(["rpm=1", "rpm=2"])


def test_a_prompt_that_is_left_by_ctrl_d_is_an_empty_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def left(prompt: str) -> str:
        raise EOFError

    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(getpass, "getpass", left)

    with pytest.raises(Fault, match="from standard input is empty"):
        typed.api_key("-", None, None)
