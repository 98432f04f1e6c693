"""What a client is told, and what is kept from it."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import attrs
import pytest
from fakes.control import view

from modelproxy.ctl import environment
from modelproxy.ctl.environment import Changes, Goal, changes

URL = "http://127.0.0.1:3456"
OLLAMA = Goal(URL, "ollama/codellama", "ollama/codellama", window=65536, output=8192)
FRONT = Goal(URL, "front", "front", passes_on=True, is_front=True)
REAL = {
    "ANTHROPIC_API_KEY": "sk-ant-real",
    "ANTHROPIC_AUTH_TOKEN": "real-token",
    "CLAUDE_CODE_OAUTH_TOKEN": "real-login",
    "ANTHROPIC_CUSTOM_HEADERS": "x-gateway-key: real",
    "ANTHROPIC_MODEL": "claude-opus-5-5",
    "ANTHROPIC_DEFAULT_MODEL": "claude-opus-5-5",
    "CLAUDE_CODE_USE_BEDROCK": "1",
    "PATH": "/bin",
}


def test_one_model_is_every_model_and_no_credential_goes_along() -> None:
    """S139: nothing of the caller's own is left, and what Claude Code needs is said."""
    found = changes(OLLAMA, "claude", REAL).applied(REAL)

    assert found == {
        "PATH": "/bin",
        "ANTHROPIC_BASE_URL": URL,
        "ANTHROPIC_AUTH_TOKEN": environment.TOKEN,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "65536",
        "CLAUDE_CODE_DISABLE_1M_CONTEXT": "1",
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "8192",
        "CLAUDE_CODE_SUBAGENT_MODEL": "ollama/codellama",
        "CLAUDE_CODE_SUBAGENT_MODEL_FORCE": "1",
        **{f"ANTHROPIC_DEFAULT_{tier}_MODEL": "ollama/codellama" for tier in environment.TIERS},
    }


def test_p29_what_up_says_of_the_window() -> None:
    unknown = attrs.evolve(OLLAMA, window=None, output=None)

    assert environment.line_of_sizes(OLLAMA) == (
        "export CLAUDE_CODE_MAX_CONTEXT_TOKENS=65536 CLAUDE_CODE_DISABLE_1M_CONTEXT=1 "
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS=8192"
    )
    assert environment.line_of_sizes(unknown) == ""


def test_an_access_token_takes_the_place_of_a_credential_or_stands_beside_it() -> None:
    """Where the caller's own credential is passed on, that one stays what it is."""
    present = REAL | {environment.OWN_TOKEN: "mp-secret"}
    alone, beside = changes(OLLAMA, "anthropic", present), changes(FRONT, "claude", present)
    found = beside.applied(present)

    assert alone.set["ANTHROPIC_AUTH_TOKEN"] == alone.set["ANTHROPIC_API_KEY"] == "mp-secret"
    assert found["ANTHROPIC_CUSTOM_HEADERS"] == "x-gateway-key: real\nx-proxy-token: mp-secret"
    assert found["ANTHROPIC_AUTH_TOKEN"] == "real-token"
    assert "ANTHROPIC_CUSTOM_HEADERS" not in changes(FRONT, "claude", found).set, "said twice"
    assert "ANTHROPIC_CUSTOM_HEADERS" not in changes(FRONT, "claude", REAL).set
    assert environment.sent_along(present) == {"x-proxy-token": "mp-secret"}
    assert environment.sent_along(REAL) == {}


def test_other_programs_get_a_key_as_well() -> None:
    """Many libraries look at nothing else."""
    found = changes(OLLAMA, "anthropic", REAL).applied(REAL)

    assert found["ANTHROPIC_API_KEY"] == found["ANTHROPIC_AUTH_TOKEN"] == environment.TOKEN


def test_aider_has_names_of_its_own() -> None:
    found = changes(OLLAMA, "aider", {}).set

    assert (found["ANTHROPIC_API_BASE"], found["AIDER_MODEL"]) == (URL, "anthropic/ollama/codellama")
    assert found["AIDER_SHOW_MODEL_WARNINGS"] == "false"
    said = {"AIDER_SHOW_MODEL_WARNINGS": "true"}
    assert changes(OLLAMA, "aider", said).applied(said)["AIDER_SHOW_MODEL_WARNINGS"] == "true"


def test_the_front_door_keeps_credentials_and_names() -> None:
    """Whatever no rule takes goes on to Anthropic as it is."""
    found = changes(FRONT, "claude", REAL)

    assert found.applied(REAL) == REAL | {
        "ANTHROPIC_BASE_URL": URL,
        "CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY": "1",
        "CLAUDE_CODE_GATEWAY_HINT_HEADERS": "1",
    }
    (bedrock,) = environment.warnings(FRONT, REAL)
    assert bedrock.startswith("CLAUDE_CODE_USE_BEDROCK is set")
    assert environment.warnings(OLLAMA, REAL) == []


def test_a_front_of_which_nothing_goes_to_anthropic_needs_no_login() -> None:
    """Whoever has a credential keeps it; an access token stands beside the word."""
    row = view("front", otherwise="ollama/codellama")
    goal = environment.goal_of(row, "front", (65536, 8192), None)
    bare = changes(goal, "claude", {environment.OWN_TOKEN: "mp-secret", "ANTHROPIC_API_KEY": ""}).set

    assert bare["ANTHROPIC_AUTH_TOKEN"] == environment.TOKEN
    assert bare["ANTHROPIC_CUSTOM_HEADERS"] == "x-proxy-token: mp-secret"
    assert bare["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "65536"
    assert bare["CLAUDE_CODE_DISABLE_1M_CONTEXT"] == "1"
    assert "ANTHROPIC_API_KEY" not in bare
    assert changes(goal, "aider", {}).set["ANTHROPIC_API_KEY"] == environment.TOKEN
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"):
        own = {name: REAL[name]}
        found = changes(goal, "anthropic", own)
        assert {one for one in REAL if one in found.applied(own)} == {name}
        assert found.applied(own)[name] == REAL[name]


def test_where_anything_may_go_to_anthropic_nothing_hides_the_login() -> None:
    goal = environment.goal_of(view("front", otherwise=None), "front", (None, None), None)

    assert changes(goal, "anthropic", {}).set.keys().isdisjoint(REAL)


def test_a_gateway_that_is_left_out_is_named() -> None:
    """Its credential would go to Anthropic itself."""
    (gateway,) = environment.warnings(FRONT, {"ANTHROPIC_BASE_URL": "https://gateway.example"})

    assert gateway.startswith("ANTHROPIC_BASE_URL was https://gateway.example; ")
    assert environment.warnings(FRONT, {"ANTHROPIC_BASE_URL": f"{URL}/a/x"}) == []


def test_a_fallback_to_anthropic_keeps_them_too() -> None:
    """The request that falls back is the caller's own: a model's name of ours would be refused there."""
    row = view("ollama/codellama", fallback=["openrouter/x", "anthropic"])
    goal = environment.goal_of(row, "ollama", (65536, None), None)
    found = changes(goal, "claude", REAL)

    assert found.unset == ()
    assert "ANTHROPIC_DEFAULT_OPUS_MODEL" not in found.set
    assert found.set["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "65536"


def test_a_model_of_anthropics_is_called_as_there() -> None:
    goal = environment.goal_of(view("anthropic/claude-sonnet-4-5"), "anthropic", (None, None), None)
    found = changes(goal, "claude", REAL)

    assert found.set["ANTHROPIC_DEFAULT_OPUS_MODEL"] == "claude-sonnet-4-5"
    assert found.unset == ()


@pytest.mark.parametrize(
    ("agent", "base"),
    [(None, URL), ("code-reviewer", f"{URL}/a/code-reviewer"), ("a b/c%", f"{URL}/a/a%20b%2Fc%25")],
)
def test_an_agent_stands_in_the_address(agent: str | None, base: str) -> None:
    goal = environment.goal_of(view("ollama/x", url=URL), "ollama", (None, None), agent)

    assert changes(goal, "claude", {}).set["ANTHROPIC_BASE_URL"] == base


@pytest.mark.parametrize(
    ("present", "said"),
    [
        ({}, None),
        ({"HTTPS_PROXY": ""}, None),
        ({"https_proxy": "http://p:8080"}, "127.0.0.1,localhost"),
        ({"ALL_PROXY": "x", "NO_PROXY": "a.example, localhost"}, "a.example,localhost,127.0.0.1"),
        ({"HTTP_PROXY": "x", "NO_PROXY": "*"}, None),
    ],
)
def test_no_http_proxy_is_asked_for_this_machine(present: dict[str, str], said: str | None) -> None:
    assert changes(OLLAMA, "claude", present).set.get("NO_PROXY") == said


OPENAI = {
    "OPENAI_BASE_URL": f"{URL}/v1",
    "OPENAI_API_BASE": f"{URL}/v1",
    "OPENAI_API_KEY": environment.TOKEN,
}


def test_libraries_of_openais_go_to_the_model() -> None:
    """Their account stays unknown to the proxy, and nothing of Anthropic's is touched."""
    present = {"OPENAI_API_KEY": "sk-real", "OPENAI_ORG_ID": "org-real", "ANTHROPIC_API_KEY": "sk-ant-real"}
    found = changes(OLLAMA, "openai", present).applied(present)

    assert found == OPENAI | {"ANTHROPIC_API_KEY": "sk-ant-real"}
    said = changes(OLLAMA, "openai", present | {environment.OWN_TOKEN: "mp-secret"}).set
    assert said["OPENAI_API_KEY"] == "mp-secret"
    agent = changes(attrs.evolve(OLLAMA, agent="a"), "openai", {}).set
    assert agent["OPENAI_BASE_URL"] == f"{URL}/a/a/v1"


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE"])
def test_a_program_that_goes_to_openai_already_goes_on_there(name: str) -> None:
    """It may use that for something else, and would not notice who answers."""
    free = changes(OLLAMA, "anthropic", {name: ""})
    bound = changes(OLLAMA, "anthropic", {name: "its own"})

    assert free.set.items() >= OPENAI.items()
    assert OPENAI.keys().isdisjoint({*bound.set, *bound.unset})
    assert environment.goes_to_openai({name: "its own"}) == name
    for client in ("claude", "aider", "opencode", "codex"):
        assert OPENAI.keys().isdisjoint(changes(OLLAMA, client, {}).set)


def test_a_key_of_anthropics_in_the_place_of_openais() -> None:
    """Where the caller's own request may go to Anthropic it stays; at no time does it make a library go to OpenAI."""
    present = {"OPENAI_API_KEY": "sk-ant-real"}

    assert changes(FRONT, "openai", present).set["OPENAI_API_KEY"] == "sk-ant-real"
    assert changes(FRONT, "anthropic", present).set["OPENAI_API_KEY"] == "sk-ant-real"
    assert changes(OLLAMA, "openai", present).set["OPENAI_API_KEY"] == environment.TOKEN
    assert changes(FRONT, "openai", present | {environment.OWN_TOKEN: "mp"}).set["OPENAI_API_KEY"] == "mp"
    assert environment.goes_to_openai(present) is None


@pytest.mark.parametrize(
    ("command", "client"),
    [
        ("npx @openai/codex@0.169.0 exec hi", "codex"),
        ("npx -y opencode-ai run hi", "opencode"),
        ("/bin/sh -c /opt/bin/codex", "codex"),
        ("codex exec hi", None),
        ("npx claude", None),
    ],
)
def test_a_client_that_something_else_starts(command: str, client: str | None) -> None:
    """Variables do not lead it."""
    assert environment.behind(command.split()) == client


def test_codex_has_no_variables() -> None:
    """It is told on its command line; only a proxy of the environment would stand in its way."""
    assert changes(OLLAMA, "codex", REAL) == Changes({})
    assert set(changes(OLLAMA, "codex", {"HTTP_PROXY": "http://far"}).set) == {"NO_PROXY", "no_proxy"}


@pytest.mark.parametrize(
    ("program", "client"),
    [
        ("claude", "claude"),
        ("/usr/local/bin/aider", "aider"),
        ("codex", "codex"),
        ("opencode", "opencode"),
        ("python3", "anthropic"),
        ("openai", "anthropic"),
    ],
)
def test_a_program_is_known_by_its_name(program: str, client: str) -> None:
    assert environment.client_of(program) == client


NASTY = Changes({"A": 'it\'s $HOME `x` \\ "q"\nz', "B": "", "C": "http://h/p?a=1"}, ("GONE", "ALSO"))


def test_a_shell_reads_what_was_meant() -> None:
    """Whatever stands in the values."""
    script = environment.script(NASTY, "sh")
    done = subprocess.run(
        ["sh", "-c", f'{script}\nprintf "%s|" "$A" "$B" "$C" "${{GONE-none}}"'],
        env={"GONE": "1", "ALSO": "2"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "|".join([*NASTY.set.values(), "none", ""])


def test_fish_has_words_of_its_own() -> None:
    lines = environment.script(NASTY, "fish")

    assert lines.startswith(
        "set -e GONE\nset -e ALSO\nset -gx A 'it\\'s $HOME `x` \\\\ \"q\"\nz'\nset -gx B ''"
    )
    if shutil.which("fish"):
        subprocess.run(["fish", "-n"], input=lines, text=True, check=True)


def test_json_is_for_programs() -> None:
    assert json.loads(environment.script(NASTY, "json")) == {"set": NASTY.set, "unset": ["GONE", "ALSO"]}


def test_nothing_to_unset_is_no_line() -> None:
    assert environment.script(Changes({"A": "b"}), "sh") == "export A=b"


def test_opencode_has_a_file() -> None:
    """With /v1, and with the window: without it it never compacts."""
    found: dict[str, Any] = json.loads(environment.opencode(OLLAMA, {}))
    provider = found["provider"]["modelproxy"]

    assert provider["options"] == {"baseURL": f"{URL}/v1", "apiKey": environment.TOKEN}
    assert provider["models"]["ollama/codellama"]["limit"] == {"context": 65536, "output": 8192}
    assert found["model"] == found["small_model"] == "modelproxy/ollama/codellama"
    assert "limit" not in environment.opencode(attrs.evolve(OLLAMA, window=None), {})


@pytest.mark.parametrize(
    ("goal", "present"),
    [(OLLAMA, {environment.OWN_TOKEN: "mp-secret"}), (attrs.evolve(OLLAMA, token_required=True), {})],
)
def test_opencode_finds_its_token_in_the_environment(goal: Goal, present: dict[str, str]) -> None:
    """Its file may be committed: it names the variable, as opencode's own configuration can."""
    found = environment.opencode(goal, present)

    assert '"apiKey": "{env:MODELPROXY_TOKEN}"' in found
    assert "mp-secret" not in found


def test_opencode_through_the_front_is_its_own_provider_by_another_way() -> None:
    """It keeps its credential and its models; only where they are asked for is new."""
    present = {environment.OWN_TOKEN: "mp-secret"}
    options = {"baseURL": f"{URL}/v1"}
    more = {"headers": {"x-proxy-token": "{env:MODELPROXY_TOKEN}"}}

    assert json.loads(environment.opencode(FRONT, {})) == {"provider": {"anthropic": {"options": options}}}
    assert json.loads(environment.opencode(FRONT, present)) == {
        "provider": {"anthropic": {"options": options | more}}
    }


@pytest.mark.parametrize(
    "said", [None, "", '{"theme":"x","provider":{"mine":{}},"model":"mine/m"}', "{broken", "[]"]
)
def test_opencode_is_told_on_top_of_what_it_has_been_told(said: str | None) -> None:
    present = {} if said is None else {"OPENCODE_CONFIG_CONTENT": said}
    found = json.loads(changes(OLLAMA, "opencode", present).set["OPENCODE_CONFIG_CONTENT"])
    ours = json.loads(environment.opencode(OLLAMA, {}))

    assert found["provider"]["modelproxy"] == ours["provider"]["modelproxy"]
    assert found["model"] == "modelproxy/ollama/codellama"
    assert (found.get("theme"), "mine" in found["provider"]) == (
        ("x", True) if "theme" in (said or "") else (None, False)
    )


def test_a_token_that_is_missing_is_missed() -> None:
    """Claude Code would only ask its user to log in."""
    strict = attrs.evolve(OLLAMA, token_required=True)
    (missing,) = environment.warnings(strict, {})

    assert "ollama/codellama serves nobody without an access token" in missing
    assert environment.warnings(strict, {environment.OWN_TOKEN: "mp-secret"}) == []


def test_a_token_that_nobody_knows_is_told_of() -> None:
    refused = attrs.evolve(OLLAMA, token_required=True, token_refused=True)
    (unknown,) = environment.warnings(refused, {environment.OWN_TOKEN: "mp-wrong"})

    assert "does not know the access token in MODELPROXY_TOKEN" in unknown


def test_a_window_that_nobody_knows_is_asked_for() -> None:
    """Of Claude Code only, and not where the models are Anthropic's."""
    unknown = attrs.evolve(OLLAMA, window=None)
    (said,) = environment.missing(unknown, "claude")

    assert said.endswith("proxyctl config set 'proxies.\"ollama/codellama\".context_window' TOKENS")
    assert environment.missing(unknown, "aider") == environment.missing(OLLAMA, "claude") == []
    assert environment.missing(attrs.evolve(unknown, passes_on=True), "claude") == []
    assert environment.missing(attrs.evolve(unknown, model="echo/demo"), "claude") == []


def test_codex_guesses_less() -> None:
    (said,) = environment.missing(attrs.evolve(OLLAMA, window=None), "codex")

    assert "codex takes it for 272000 tokens" in said
    assert environment.missing(attrs.evolve(OLLAMA, window=None), "openai") == []


def test_a_large_window_may_be_used() -> None:
    """The default model's `[1m]` is wrong for small windows only."""
    large, unknown = attrs.evolve(OLLAMA, window=1_048_576), attrs.evolve(OLLAMA, window=None)

    assert "CLAUDE_CODE_DISABLE_1M_CONTEXT" not in changes(large, "claude", {}).set
    assert "CLAUDE_CODE_DISABLE_1M_CONTEXT" not in changes(unknown, "claude", {}).set


@pytest.mark.parametrize(
    ("shell", "header"),
    [
        (REAL, {"authorization": "Bearer real-token"}),
        ({"ANTHROPIC_API_KEY": " sk-ant-real\n"}, {"x-api-key": "sk-ant-real"}),
        (
            {"CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-x"},
            {"authorization": "Bearer sk-ant-oat01-x", "anthropic-beta": "oauth-2025-04-20"},
        ),
        (
            {"ANTHROPIC_AUTH_TOKEN": "unused", "ANTHROPIC_API_KEY": "sk-ant-real"},
            {"x-api-key": "sk-ant-real"},
        ),
        ({"ANTHROPIC_AUTH_TOKEN": "mp-of-a-proxy"}, {}),
        ({}, {}),
    ],
)
def test_the_callers_own_credential_in_the_order_of_claude_code(
    shell: dict[str, str], header: dict[str, str]
) -> None:
    """What stands there for a proxy's sake is none."""
    assert environment.credential(view("anthropic/claude-sonnet-4-5"), shell) == header


@pytest.mark.parametrize(
    ("row", "goes"),
    [
        (view("anthropic/x"), True),
        (view("front"), True),
        (view("front/work", provider="front"), True),
        (view("ollama/x", fallback=["anthropic"]), True),
        (view("ollama/x"), False),
        (view("openrouter/anthropic/x"), False),
        (view("ollama/x", fallback=["openrouter/x"]), False),
        (view("gateway/x"), False),
    ],
)
def test_it_goes_only_where_the_callers_own_request_may_be_passed_on(row: dict[str, Any], goes: bool) -> None:
    assert bool(environment.credential(row, REAL)) is goes


@pytest.mark.parametrize("value", ["two words", "line\nbreak", "schlüssel"])
def test_what_no_header_can_hold_is_named_and_not_shown(value: str) -> None:
    with pytest.raises(ValueError, match=r"^ANTHROPIC_API_KEY ") as caught:
        environment.credential(view("anthropic/x"), {"ANTHROPIC_API_KEY": value})
    assert value not in str(caught.value)


def test_who_sent_none_and_is_refused_hears_what_to_set() -> None:
    """Unless the words say already what to run: a configured key or an access token is what is wrong."""
    row, words = view("anthropic/x"), "x-api-key header is required"

    assert "ANTHROPIC_API_KEY" in environment.to_set(row, 401, words, {})
    assert "keys set" in environment.to_set(row, 401, words, {})
    assert "ANTHROPIC_API_KEY" in environment.to_set(view("front"), 401, words, {})
    assert "keys set" not in environment.to_set(view("front"), 401, words, {})
    assert not environment.to_set(row, 401, words, REAL)
    assert not environment.to_set(row, 400, words, {})
    assert not environment.to_set(row, 401, "set another with: proxyctl keys set anthropic", {})
    assert not environment.to_set(view("ollama/x", fallback=["anthropic"]), 401, words, {})
