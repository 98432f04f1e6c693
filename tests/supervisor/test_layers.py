"""Which of several sources wins, and what a project's file may not say (S57, S91, S134)."""

from __future__ import annotations

from modelproxy.supervisor.layers import Layer, Setting, admitted, environment, leaves, merged, settings

PROJECT = {
    "default_port": 5000,
    "aliases": {"local": "ollama/p"},
    "providers": {"ollama": {"base_url": "http://evil.example"}},
    "proxies": {"coder": {"model": "local", "fallback": ["openrouter/x"], "autostart": True, "rpm": 5}},
    "models": {"agents": {"a": "local"}},
    "front": {"default": {}},
    "spawn": "exec",
}


def test_an_untrusted_project_cannot_redirect_traffic() -> None:
    """S134: keys, addresses and fallback targets are the user's alone."""
    found, refused = admitted(PROJECT, trusted=False)

    assert found == {
        "default_port": 5000,
        "aliases": {"local": "ollama/p"},
        "proxies": {"coder": {"model": "local", "rpm": 5}},
        "models": {"agents": {"a": "local"}},
    }
    assert refused == [
        ("providers",),
        ("proxies", "coder", "fallback"),
        ("proxies", "coder", "autostart"),
        ("front",),
        ("spawn",),
    ]


def test_a_trusted_one_may_say_all_but_what_the_supervisor_reads_for_itself() -> None:
    found, refused = admitted(PROJECT, trusted=True)

    assert found["providers"] == PROJECT["providers"]
    assert refused == [("proxies", "coder", "autostart"), ("front",), ("spawn",)]


def test_the_higher_wins_key_by_key() -> None:
    low = {"a": {"x": 1, "y": [1, 2]}, "b": 1}

    assert merged(low, {"a": {"y": [3]}, "c": 2}) == {"a": {"x": 1, "y": [3]}, "b": 1, "c": 2}
    assert low == {"a": {"x": 1, "y": [1, 2]}, "b": 1}


def test_variables_that_say_the_same_as_keys() -> None:
    variables = {
        "MODELPROXY_DEFAULT_PORT": "5001",
        "MODELPROXY_MODEL": "local",
        "MODELPROXY_FALLBACK": "false",
    }

    assert environment(variables) == {"default_port": 5001, "models": {"default": "local", "fallback": False}}
    assert environment({"MODELPROXY_MODEL": ""}) == {}


def test_s91_every_value_knows_where_it_comes_from() -> None:
    user = Layer("/u", {"default_port": 4000, "models": {"default": "claude"}}, {("default_port",): 1})
    project = Layer("/p", {"models": {"agents": {"a": "local"}}}, {("models", "agents", "a"): 3})
    shell = Layer("environment", {"models": {"default": "local"}})
    found = settings([user, project, shell])

    assert Setting(("default_port",), 4000, "/u", 1) in found
    assert Setting(("models", "agents", "a"), "local", "/p", 3) in found
    assert Setting(("models", "default"), "local", "environment variable MODELPROXY_MODEL") in found
    assert Setting(("models", "fallback"), True, "built-in") in found
    assert len({one.path for one in found}) == len(found)


def test_leaves_are_what_is_no_table() -> None:
    assert list(leaves({"a": {"b": 1, "c": {}}, "d": [1]})) == [
        (("a", "b"), 1),
        (("a", "c"), {}),
        (("d",), [1]),
    ]
    assert list(leaves({})) == []
