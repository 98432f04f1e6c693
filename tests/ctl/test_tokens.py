"""Access tokens: made, listed and taken back in the user's config.toml, which never holds one."""

from __future__ import annotations

import hashlib
import stat

import pytest
from fakes.terminal import Run

from modelproxy.supervisor.config import parse
from modelproxy.supervisor.paths import Paths


def test_add_list_remove(run: Run, paths: Paths) -> None:
    """Comments stay, the file is private, the token is shown once."""
    paths.config.mkdir(parents=True, exist_ok=True)
    paths.config_file.write_text("# mine\n")
    ran = run("tokens", "add", "ci", "--rpm", "60", "--max-concurrent", "2", "--proxies", "ollama/*")
    token = ran.out.strip()
    text = paths.config_file.read_text()
    kept = parse(text).tokens["ci"]

    assert ran.code == 0
    assert (token[:3], len(token) > 40) == ("mp-", True)
    assert ran.err.startswith("ci: rpm=60, max_concurrent=2 in each proxy  ollama/*. It is shown this once")
    assert (text.startswith("# mine\n"), token in text) == (True, False)
    assert kept.sha256 == hashlib.sha256(token.encode()).hexdigest()
    assert (kept.rpm, kept.max_concurrent, kept.proxies) == (60, 2, ["ollama/*"])
    assert stat.S_IMODE(paths.config_file.stat().st_mode) == 0o600
    short = f"{kept.sha256[:8]}…"
    assert (
        run("tokens", "list").out
        == f"ci  mp-***  {short}  rpm=60, max_concurrent=2 in each proxy  ollama/*\n"
    )
    row = {"name": "ci", "sha256": short, "rpm": 60, "max_concurrent": 2, "proxies": ["ollama/*"]}
    assert run("tokens", "list", "--json").json == [row]
    assert run("tokens", "remove", "ci", "--json").json == {"name": "ci", "removed": True}
    assert paths.config_file.read_text() == "# mine\n"


def test_two_are_never_the_same_and_limits_are_optional(run: Run) -> None:
    one, two = (run("tokens", "add", name, "--json").json for name in ("one", "two"))

    assert one["token"] != two["token"]
    assert (one["rpm"], one["max_concurrent"], one["proxies"]) == (None, None, ["*"])
    assert [row["name"] for row in run("tokens", "list", "--json").json] == ["one", "two"]


def test_a_token_is_not_written_over(run: Run, paths: Paths) -> None:
    """Whoever uses the old one would be locked out."""
    run("tokens", "add", "ci")
    before = paths.config_file.read_text()
    ran = run("tokens", "add", "ci", "--json")

    assert (ran.code, ran.json["error"]["code"]) == (1, "exists")
    assert paths.config_file.read_text() == before


@pytest.mark.parametrize(
    "words", [("add", "a b"), ("add", ""), ("add", "ci", "--rpm", "0"), ("add", "ci", "--rpm", "2000000")]
)
def test_what_cannot_be_meant_is_refused(run: Run, paths: Paths, words: tuple[str, ...]) -> None:
    assert run("tokens", *words).code == 2
    assert not paths.config_file.exists()


def test_one_that_is_not_there_cannot_be_removed(run: Run) -> None:
    ran = run("tokens", "remove", "ci")

    assert (ran.code, "there is no token" in ran.err, "proxyctl tokens list" in ran.err) == (1, True, True)


def test_a_file_with_mistakes_is_told(run: Run, paths: Paths) -> None:
    paths.config.mkdir(parents=True, exist_ok=True)
    paths.config_file.write_text('[tokens.ci]\nsha256 = "mp-in-clear"\n')
    ran = run("tokens", "list")

    assert (ran.code, "tokens.ci.sha256" in ran.err) == (1, True)
