"""What the documents say is compared with the code, where the code can be asked.

`docs/cli.md` has a test of its own, in `tests/ctl/test_cli_docs.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from modelproxy.ctl import faults, main
from modelproxy.supervisor import config, facts, logs, paths, policy, protocol, runner
from modelproxy.worker import contract, serve

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def section(text: str, heading: str) -> str:
    """What stands below `## heading`."""
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def first_column(text: str) -> list[str]:
    """The code spans that begin the rows of a table."""
    return re.findall(r"^\| (`[^|]+`) \|", text, re.MULTILINE)


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


# --- the design -----------------------------------------------------------------------------------------


def test_every_state_is_explained_once() -> None:
    """The rows of the table are the states."""
    rows = [row.strip("`") for row in first_column(section(DESIGN, "The life of a proxy"))]

    assert sorted(rows) == sorted(facts.State)


def test_every_route_is_listed() -> None:
    """As the protocol's own docstring lists them."""
    listed = re.findall(r"^\| ((?:GET|PUT|POST|DELETE) [^|]+?) \|", protocol.__doc__ or "", re.MULTILINE)
    promised = {
        f"{line.split()[0]} {one.strip().removeprefix(line.split()[0]).strip()}"
        for line in listed
        for one in line.split(",")
    }
    rows = {span for row in first_column(section(DESIGN, "The control API")) for span in spans(row)}

    assert {row for row in rows if " " in row} == promised


def test_every_error_code_has_its_status() -> None:
    """Programs look at the code; people look at this table."""
    rows = dict(
        re.findall(r"^\| `([a-z_]+)` \| (\d{3}) \|", section(DESIGN, "The control API"), re.MULTILINE)
    )

    assert {code: int(status) for code, status in rows.items()} == protocol.STATUS


def test_the_policy_numbers_are_those_of_the_code() -> None:
    """All of them, by name."""
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([\d.]+) \|", section(DESIGN, "When to restart"), re.MULTILINE)
    numbers = {name: value for name, value in vars(policy).items() if name.isupper()}

    assert {name: float(value) for name, value in rows} == numbers


def test_every_message_of_the_channel_is_explained() -> None:
    """By the `type` that it has on the wire."""
    rows = {row.strip("`") for row in first_column(section(DESIGN, "The channel"))}
    messages: Any = contract.FromWorker | contract.FromSupervisor

    assert rows == {cls.__name__.lower() for cls in messages.__args__}


def test_the_environment_of_a_worker_is_told_in_full() -> None:
    """Nobody should find out about it by a variable that is missing."""
    told = section(DESIGN, "Security")
    names = {*runner._ENVIRONMENT, *runner._ENVIRONMENT_PREFIXES, *runner._ENVIRONMENT_PROXIES}

    assert names - set(spans(told)) == set()


def test_every_file_is_listed() -> None:
    """Both in the design and, shorter, in the README."""
    where = paths.Paths(Path("/run"), Path("/state"), Path("/config"))
    files = [getattr(where, name) for name in vars(type(where)) if isinstance(getattr(where, name), Path)]
    names = {path.name for path in files} - {"run", "state", "config", "logs", "proxies"}

    assert {name for name in names if f"`{name}`" not in DESIGN and f"`logs/{name}`" not in DESIGN} == set()
    assert {name for name in names if f"`{name}`" not in README} == set()
    assert f"{logs.MAX_BYTES // 1024**2} MiB" in section(DESIGN, "Files on disk")
    assert logs.KEPT == 3  # "three" in both


def test_the_times_in_the_text_are_those_of_the_code() -> None:
    """The few numbers that stand in sentences."""
    assert f"Every {serve.BEAT_S:g} s, and within {serve.STIR_S:g} s of news" in DESIGN
    assert (
        f"alone for {serve.ORPHAN_LIMIT_S / 3600:g} hours and idle for {serve.ORPHAN_IDLE_S / 60:g} minutes"
        in DESIGN
    )
    assert (
        f"the grace ({protocol.DEFAULT_GRACE_S:g} s; after a `restart` {policy.ROLL_GRACE_S / 60:g} min)"
        in README
    )
    assert f"Exit code {contract.EXIT_CONFIG} of a worker" in DESIGN


def test_the_contents_are_the_headings() -> None:
    """In order, and each link leads somewhere."""
    contents = re.findall(r"^- \[(.+)\]\(#(.+)\)$", DESIGN, re.MULTILINE)
    headings = re.findall(r"^## (.+)$", DESIGN, re.MULTILINE)

    assert contents == [
        (heading, re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")) for heading in headings
    ]


# --- the README -----------------------------------------------------------------------------------------


def test_the_readme_shows_code_early() -> None:
    """Whoever looks for thirty seconds sees what it is."""
    lines = README.splitlines()

    assert lines.index("```") < 20


def test_the_readme_promises_the_providers_that_exist_and_no_other() -> None:
    """Two lines that whoever adds a kind has to touch."""
    lines = README.splitlines()
    there = next(line for line in lines if line.startswith("Kinds of provider: "))
    missing = next((line for line in lines if line.startswith("Not there yet: ")), "")

    assert set(spans(there)) == {*config.KINDS, "remote"}
    assert set(spans(missing)) & set(config.KINDS) == set()


def test_the_exit_codes_are_those_of_the_code() -> None:
    """The contract with scripts, in one sentence."""
    sentence = next(line for line in README.splitlines() if line.startswith("Exit codes:"))
    codes = {int(number) for number in re.findall(r"\b(\d+) ", sentence)}

    assert codes == {value for name, value in vars(faults).items() if name.startswith("EXIT_")}


# --- all of them ----------------------------------------------------------------------------------------


def commands(command: Any, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Every command and group, as words."""
    below = getattr(command, "commands", {})
    return {path}.union(*(commands(child, (*path, name)) for name, child in below.items()))


def without_json(command: Any, path: tuple[str, ...] = ()) -> set[str]:
    """Every command that is shown and takes no `--json`."""
    if hasattr(command, "commands"):
        return set().union(*(without_json(child, (*path, name)) for name, child in command.commands.items()))
    takes = any("--json" in one.opts for one in command.params)
    return set() if takes or command.hidden else {" ".join(path)}


def test_everything_takes_json_but_what_the_readme_says() -> None:
    sentence = next(line for line in README.splitlines() if "Everything takes `--json` but " in line)
    excepted = sentence.partition("Everything takes `--json` but ")[2].partition(",")[0]

    assert without_json(typer.main.get_command(main.app)) == set(spans(excepted))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_that_is_named_exists(document: Path) -> None:
    """`proxyctl` followed by words, in code and in code blocks."""
    known = commands(typer.main.get_command(main.app))
    groups = {path[:-1] for path in known if path}
    text = document.read_text(encoding="utf-8")
    named = [tuple(words.split()) for words in re.findall(r"proxyctl((?: [a-z]+\b(?![/@.=-]))+)", text)]
    code = [words for words in named if words[0] not in ("and", "is", "prints")]

    assert [words for words in code if words[:1] not in known] == []
    assert [
        words for words in code if words[:1] in groups and len(words) > 1 and words[:2] not in known
    ] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_to_one(document: Path) -> None:
    """Relative links only; addresses are not looked up."""
    links = re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8"))

    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_script_and_test_that_is_named_exists(document: Path) -> None:
    """`scripts/demo`, `tests/test_docs.py`, `worker/httpd.py` …"""
    named = re.findall(
        r"`((?:scripts|tests|docs|supervisor|worker|ctl|requirements|systemd)/[\w./-]*\w)`",
        document.read_text(encoding="utf-8"),
    )

    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_changelog_has_a_place_for_what_comes() -> None:
    """Unreleased stands first."""
    assert re.findall(r"^## (.+)$", CHANGELOG, re.MULTILINE)[0] == "Unreleased"
