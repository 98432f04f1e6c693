"""Who may ask a proxy, by what the configuration says."""

from __future__ import annotations

import pytest

from modelproxy.supervisor import access
from modelproxy.supervisor.config import Config, parse
from modelproxy.supervisor.reading import ConfigError

CONFIG = f"""
[tokens.everywhere]
sha256 = "{"a" * 64}"
rpm = 60
[tokens.local]
sha256 = "{"b" * 64}"
max_concurrent = 2
proxies = ["ollama/*", "coder"]
[proxies.coder]
model = "echo/demo"
require_token = true
[proxies."echo/open"]
require_token = false
"""


def names(name: str, model_id: str, config: Config) -> list[str]:
    return [token.name for token in access.to(name, model_id, config).tokens]


def test_a_token_is_good_where_a_glob_of_its_fits() -> None:
    """The name or the model id; everywhere when none is said."""
    config = parse(CONFIG)

    assert names("coder", "echo/demo", config) == ["everywhere", "local"]
    assert names("ollama/x:7b", "ollama/x:7b", config) == ["everywhere", "local"]
    assert names("mine", "ollama/x", config) == ["everywhere", "local"]
    assert names("echo/demo", "echo/demo", config) == ["everywhere"]
    assert names("coder@3458", "echo/demo", config) == ["everywhere", "local"]
    assert names("coder@home", "echo/demo", config) == ["everywhere"]


def test_it_comes_with_its_hash_and_limits() -> None:
    first, second = access.to("coder", "echo/demo", parse(CONFIG)).tokens

    assert (first.sha256, first.rpm, first.max_concurrent) == ("a" * 64, 60, None)
    assert (second.sha256, second.rpm, second.max_concurrent) == ("b" * 64, None, 2)
    assert "aaaa" not in repr(first)


@pytest.mark.parametrize("everywhere", [False, True])
def test_the_own_table_goes_before_what_holds_everywhere(everywhere: bool) -> None:
    config = parse(f"require_token = {str(everywhere).lower()}\n{CONFIG}")

    assert access.to("coder", "echo/demo", config).required
    assert access.to("coder@3458", "echo/demo", config).required
    assert not access.to("echo/open", "echo/open", config).required
    assert access.to("echo/x", "echo/x", config).required is everywhere


def test_a_table_of_the_model_holds_for_a_named_proxy_that_says_nothing() -> None:
    config = parse('[proxies.mine]\nmodel = "echo/x"\n[proxies."echo/x"]\nrequire_token = true')

    assert access.to("mine", "echo/x", config).required


@pytest.mark.parametrize("sha256", ["mp-in-clear", "A" * 64, "a" * 63, None])
def test_a_token_is_kept_by_its_hash_alone(sha256: str | None) -> None:
    said = "rpm = 1" if sha256 is None else f'sha256 = "{sha256}"'
    with pytest.raises(ConfigError, match=r"sha256.*; proxyctl tokens add ci makes ") as caught:
        parse(f"[tokens.ci]\n{said}")

    assert sha256 is None or sha256 not in str(caught.value)


DOORS = f"""
[tokens.guest]
sha256 = "{"a" * 64}"
proxies = ["front/work"]
[front.work]
rules = [{{ model = "small", to = "coder" }}]
require_token = true
[front.open]
require_token = false
[proxies.coder]
model = "echo/demo"
[aliases]
local = "echo/named"
"""


def test_a_front_may_demand_a_token_for_itself() -> None:
    config = parse(DOORS)

    assert access.to("front/work", "front/work", config).required
    assert access.to("front/work@3457", "front/work", config).required
    assert not access.to("coder", "echo/demo", config).required
    assert not access.to("front", "front", config).required
    everywhere = parse(f"require_token = true\n{DOORS}")
    assert not access.to("front/open", "front/open", everywhere).required
    assert access.to("front", "front", everywhere).required


def test_a_token_of_a_front_is_good_at_all_that_it_leads_to() -> None:
    """And nowhere else: not at another front, nor at a proxy that no rule and no name means."""
    config = parse(DOORS)

    assert names("front/work", "front/work", config) == ["guest"]
    assert names("coder", "echo/demo", config) == ["guest"]
    assert names("echo/named", "echo/named", config) == ["guest"]
    assert names("front/open", "front/open", config) == []
    assert names("echo/demo", "echo/demo", config) == []
