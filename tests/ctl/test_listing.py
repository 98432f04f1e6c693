"""What the providers list, and who is not asked; the shapes of their lists are in test_models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from fakes.terminal import Run
from fakes.upstream import Reply, Upstream

from modelproxy.ctl import listing, settings
from modelproxy.ctl.config_view import provider_table
from modelproxy.supervisor.paths import Paths

LONG_S = 60.0


@pytest.fixture
def far() -> Iterator[Upstream]:
    with Upstream() as far:
        far.on("/v1/models", Reply(body=b'{"data":[{"id":"big-one"}]}'))
        far.on("/api/tags", Reply(body=b'{"models":[{"name":"m:latest"}]}'))
        yield far


@pytest.fixture
def file(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, far: Upstream) -> Path:
    monkeypatch.chdir(tmp_path)
    for variable in ("OPENROUTER_API_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    paths.config.mkdir(parents=True)
    paths.config_file.write_text(f"""
providers.ollama.base_url = "{far.url}"
[providers.openrouter]
base_url = "{far.url}/v1"
api_key_command = "touch '{tmp_path}/asked'; echo key-of-work"
""")
    return paths.config_file


def offered(paths: Paths) -> tuple[list[str], list[str]]:
    rows, silent = listing.offered(paths, settings.read(paths), LONG_S)
    return sorted(row["id"] for row in rows), silent


def test_no_command_is_run_for_what_may_be_a_slip(run: Run, paths: Paths, file: Path, tmp_path: Path) -> None:
    """It may ask its user for a password; who wants the list will give it."""
    assert offered(paths) == (["ollama/m:latest"], ["openrouter was not asked: its key comes from a command"])
    assert not (tmp_path / "asked").exists()
    assert run("models", "list").out == "ollama/m:latest     free\nopenrouter/big-one\n"
    assert (tmp_path / "asked").exists()


def test_a_key_that_is_at_hand_needs_no_command(
    paths: Paths, file: Path, far: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", "key-of-the-shell")

    assert offered(paths) == (["ollama/m:latest", "openrouter/big-one"], [])
    assert not (tmp_path / "asked").exists()
    [asked] = [seen for seen in far.requests if seen.path == "/v1/models"]
    assert asked.headers["authorization"] == "Bearer key-of-the-shell"


def test_who_trickles_is_not_waited_for_in_a_hurry(paths: Paths, file: Path, far: Upstream) -> None:
    """Each piece comes in time, and the whole never would."""
    far.on("/api/tags", Reply(body=(b" ",) * 1000, framing="chunked", pause=0.2))
    table = provider_table(settings.read(paths))
    rows, [told] = listing.ask(paths, {"ollama": table["ollama"]}, 0.5, is_hurried=True)

    assert rows == []
    assert told == f"ollama ({far.url}) did not answer: nothing within 0.5 s"


def test_a_key_file_that_is_gone_is_told(paths: Paths, file: Path, tmp_path: Path) -> None:
    one = provider_table(settings.read(paths))["openrouter"]
    spoilt = attrs.evolve(one, key=attrs.evolve(one.key, file=str(tmp_path / "gone"), command=None))
    rows, [told] = listing.ask(paths, {"openrouter": spoilt}, LONG_S)

    assert rows == []
    key = "providers.openrouter.api_key_file"
    assert told.startswith(f"openrouter was not asked: the key file {tmp_path}/gone ({key}) cannot be read")


def test_an_address_with_too_much_at_its_end_is_the_one_that_workers_take(
    paths: Paths, file: Path, far: Upstream
) -> None:
    """A worker served from there, and its models were not to be had."""
    file.write_text(f"""
[providers]
ollama.base_url = "{far.url}/v1"
one = {{ kind = "openai", base_url = "{far.url}/v1/chat/completions" }}
two = {{ kind = "anthropic", base_url = "{far.url}/v1/" }}
""")

    assert offered(paths) == (["ollama/m:latest", "one/big-one", "two/big-one"], [])


def test_of_a_spoilt_file_of_keys_only_those_in_it_are_told(paths: Paths, file: Path, far: Upstream) -> None:
    """The lists are those of a home without keys: nobody has asked for openai and openrouter."""
    file.write_text(f'providers.ollama.base_url = "{far.url}"')
    paths.keys_file.write_text('openai = "k')
    rows, [silent] = offered(paths)

    assert (rows, silent.partition(":")[0]) == (["ollama/m:latest"], "openai was not asked")


def test_another_modelproxy_lists_a_model_once(paths: Paths, file: Path, far: Upstream) -> None:
    """It lists each under a name for Claude Code's picker as well; and its own token is asked with."""
    far.on(
        "/v1/models",
        Reply(
            body=b'{"data":[{"id":"echo/demo","display_name":"echo/demo"},'
            b'{"id":"claude-echo-demo","display_name":"echo/demo"}]}'
        ),
    )
    file.write_text(f'[remotes.office]\nurl = "{far.url}"\napi_key = "mp-token"\n')
    rows, _ = offered(paths)

    assert [row for row in rows if row.startswith("remote/")] == ["remote/office/echo/demo"]
    [asked] = far.to("/v1/models")
    assert asked.headers["authorization"] == "Bearer mp-token"
