"""The user's configuration file as classes: every problem at once, with its path and line. Pure.

    spawn = "exec"                       # how the daemon starts its workers; read when it starts itself
    [providers.work]                     # `proxyctl up work/some-model`
    kind = "openai"
    base_url = "https://llm.example.net/v1"
    api_key_env = "WORK_API_KEY"

    [proxies.coder]                      # `proxyctl up coder`
    model = "work/some-model"

A provider named like a kind has that kind, and what it does not say is the kind's own. How it is
read stands in `reading`; here the values become classes.
"""

from __future__ import annotations

from typing import Any

import attrs

from modelproxy.worker.contract import Bounds, FrontRule, Options, Timeouts
from modelproxy.worker.model_ids import REMOTE

from .reading import ConfigError, Problem, checked, load
from .schema import DEFAULT_PORT, KINDS, SERVERS
from .toml_lines import lines_of
from .values import Url, may_hold_password


@attrs.frozen
class Key:
    """Where a provider's key comes from: the variable first, and one of the others when it is not set."""

    value: str | None = attrs.field(default=None, repr=False)
    env: str | None = None
    file: str | None = None
    command: str | None = None


@attrs.frozen
class Provider:
    """A service account: what speaks there, where, with which key and limits."""

    kind: str
    base_url: str | None = None
    key: Key = Key()
    needs_key: bool = False
    options: Options = attrs.Factory(Options)
    timeouts: Timeouts = attrs.Factory(Timeouts)
    think: dict[str, bool | str] = attrs.Factory(dict)
    """For Ollama: per model name."""

    picker_alias: dict[str, str] = attrs.Factory(dict)
    """Per model name."""

    def options_for(self, model: str) -> Options:
        return attrs.evolve(
            self.options,
            think=self.think.get(model, self.options.think),
            picker_alias=self.picker_alias.get(model),
        )


BUILT_IN = {
    "echo": Provider("echo"),
    "ollama": Provider("ollama", "http://127.0.0.1:11434"),
    "openrouter": Provider(
        "openrouter", "https://openrouter.ai/api/v1", Key(env="OPENROUTER_API_KEY"), needs_key=True
    ),
    "openai": Provider("openai", "https://api.openai.com/v1", Key(env="OPENAI_API_KEY"), needs_key=True),
    # Without a key of ours the caller's own credential passes through.
    "anthropic": Provider("anthropic", "https://api.anthropic.com"),
}


REMOTE_TIMEOUT_S = 30
REMOTE_RETRIES = 2


@attrs.frozen
class ProxyOptions(Bounds):
    """A table [proxies.NAME]; its limits are `Bounds`. None: it was not said."""

    model: str | None = None
    port: int | None = None
    autostart: bool = False
    lazy: bool | None = None
    idle_stop_s: float | None = None
    """0: never."""
    max_rss: int | None = None
    grace_s: float | None = None
    fallback: list[str] | None = None
    """Model ids, aliases, names of proxies or `anthropic`."""
    require_token: bool | None = None
    """None: as `Config.require_token` says."""
    context_window: int | None = None
    max_output_tokens: int | None = None
    capabilities: list[str] | None = None
    retries: int | None = None
    hold_s: float | None = None
    ping_s: float | None = None


@attrs.frozen
class Token:
    """Who may ask, and how much."""

    sha256: str = attrs.field(repr=False)
    rpm: int | None = None
    max_concurrent: int | None = None
    proxies: list[str] = attrs.Factory(lambda: ["*"])
    """Globs of names and model ids; of a front, for all that it leads to as well."""


@attrs.frozen
class Models:
    """What agents use: model ids, aliases, names of proxies, or one of `schema.NATIVE`."""

    default: str | None = None
    fallback: bool = True
    agents: dict[str, str] = attrs.Factory(dict)


@attrs.frozen
class Front:
    """A table [front.NAME]. What its rules lead to are names as the user says them."""

    rules: list[FrontRule] = attrs.Factory(list)
    otherwise: str = "anthropic"
    port: int | None = None
    autostart: bool = False
    require_token: bool | None = None
    """None: as `Config.require_token` says."""


@attrs.frozen
class Price:
    """USD per million tokens."""

    input: float | None = None
    output: float | None = None
    cache_read: float | None = None
    cache_write: float | None = None


@attrs.frozen
class Config:
    providers: dict[str, Provider] = attrs.Factory(lambda: dict(BUILT_IN))
    """By the name before the model's: `remote/office` of a table [remotes.office]."""
    spawn: str | None = None
    """`fork` or `exec`; None is what this system does best."""
    default_port: int = DEFAULT_PORT
    aliases: dict[str, str] = attrs.Factory(dict)
    proxies: dict[str, ProxyOptions] = attrs.Factory(dict)
    models: Models = attrs.Factory(Models)
    front: dict[str, Front] = attrs.Factory(dict)
    tokens: dict[str, Token] = attrs.Factory(dict)
    require_token: bool = False
    prices: dict[str, Price] = attrs.Factory(dict)


def parse(text: str) -> Config:
    """The configuration in `text`, over the built-in providers. Raises ConfigError with every problem."""
    return build(load(text), text)


def build(document: dict[str, Any], text: str = "") -> Config:
    """The configuration that `document` says; the lines of its problems are those of `text`."""
    values, problems = checked(document)
    if problems:
        raise ConfigError(checked(document, lines_of(text))[1])
    return _config(values)


def checked_url(value: Any) -> str:
    """An http or https URL without a slash at its end. ValueError says what is wrong with it, and no password."""
    try:
        return Url().check(value)
    except ValueError as error:
        if may_hold_password(value):
            raise
        raise ValueError(f'"{value}": {error}') from None


# --- values into classes ----------------------------------------------------------------------------------

_TIMEOUTS = {
    "connect_timeout": "connect_s",
    "first_byte_timeout": "first_byte_s",
    "idle_timeout": "idle_s",
    "total_timeout": "total_s",
}
_OPTIONS = {
    **{name: name for name in ("headers", "keep_alive", "context_window", "max_output_tokens")},
    **{name: name for name in ("capabilities", "api", "server", "retries")},
    **{name: name for name in ("tool_images", "pdf_to_text", "fetch_images")},
    **{name: name for name in ("tool_stream", "tools_unsupported", "tool_schemas", "web_search")},
    "hold": "hold_s",
    "ping": "ping_s",
}
_PROXY = {"grace": "grace_s", "idle_stop": "idle_stop_s", "queue_timeout": "queue_timeout_s"} | {
    "request_timeout": "request_timeout_s",
    "hold": "hold_s",
    "ping": "ping_s",
}


def _config(values: dict[str, Any]) -> Config:
    plain = {
        key: values[key] for key in ("spawn", "default_port", "aliases", "require_token") if key in values
    }
    return Config(
        providers=BUILT_IN
        | {name: _provider(name, one) for name, one in _tables(values, "providers")}
        | {f"{REMOTE}/{name}": _remote(one) for name, one in _tables(values, "remotes")},
        proxies={name: proxy_options(one) for name, one in _tables(values, "proxies")},
        models=Models(**values.get("models", {})),
        front={name: _front(one) for name, one in _tables(values, "front")},
        tokens={name: Token(**one) for name, one in _tables(values, "tokens")},
        prices={name: Price(**one) for name, one in _tables(values, "prices")},
        **plain,
    )


def _tables(values: dict[str, Any], name: str) -> list[tuple[str, dict[str, Any]]]:
    return list(values.get(name, {}).items())


def _renamed(values: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {names[key]: value for key, value in values.items() if key in names}


def _provider(name: str, values: dict[str, Any]) -> Provider:
    kind = values.get("kind", name)
    default = BUILT_IN[kind] if kind == name else Provider(kind, BUILT_IN[kind].base_url)
    options = _renamed(values, _OPTIONS)
    if values.get("num_ctx", "auto") != "auto":
        options["num_ctx"] = values["num_ctx"]
    key = _key(values)
    return Provider(
        kind=kind,
        base_url=values.get("base_url", default.base_url),
        key=default.key if key is None else attrs.evolve(key, env=key.env or default.key.env),
        # Who says where a key comes from wants one.
        needs_key=default.needs_key or key is not None,
        options=Options(**options),
        timeouts=Timeouts(**_renamed(values, _TIMEOUTS)),
        think=values.get("think", {}),
        picker_alias=values.get("picker_alias", {}),
    )


def _key(values: dict[str, Any]) -> Key | None:
    key = Key(
        value=values.get("api_key"),
        env=values.get("api_key_env"),
        file=values.get("api_key_file"),
        command=values.get("api_key_command"),
    )
    return None if key == Key() else key


def proxy_options(values: dict[str, Any]) -> ProxyOptions:
    return ProxyOptions(**{_PROXY.get(key, key): value for key, value in values.items()})


def _front(values: dict[str, Any]) -> Front:
    return Front(**{**values, "rules": [FrontRule(**rule) for rule in values.get("rules", ())]})


def _remote(values: dict[str, Any]) -> Provider:
    key = _key(values)
    return Provider(
        kind=REMOTE,
        base_url=values["url"],
        key=key or Key(),
        needs_key=key is not None,
        options=Options(retries=values.get("retry_attempts", REMOTE_RETRIES)),
        timeouts=Timeouts(connect_s=float(values.get("timeout_seconds", REMOTE_TIMEOUT_S))),
    )


__all__ = [
    "BUILT_IN",
    "KINDS",
    "SERVERS",
    "Config",
    "ConfigError",
    "Key",
    "Problem",
    "Provider",
    "ProxyOptions",
    "build",
    "load",
    "parse",
]
