"""Looking at the settings: what holds, who said it, and all that is wrong."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs

from modelproxy.supervisor import aliases, layers, schema
from modelproxy.supervisor.config import ConfigError, Provider, build
from modelproxy.supervisor.config import Key as ProviderKey
from modelproxy.supervisor.keys import KeyUnavailableError, stored
from modelproxy.supervisor.paths import Paths
from modelproxy.supervisor.reading import in_words, ordinal
from modelproxy.supervisor.toml_lines import Path as Key
from modelproxy.supervisor.values import UNSHOWN, Field, close
from modelproxy.worker.model_ids import REMOTE, parted

from . import settings
from .client import Client
from .far import is_here
from .faults import Fault
from .keys import mask, read

_InUse = dict[str, tuple[Provider, list[str]]]
"""The sound providers that something names, by name, and what names them."""


def validate(paths: Paths) -> dict[str, Any]:
    """Every problem of every file that holds here, and every key that a mapping needs and nobody has."""
    found = settings.read(paths)
    problems = [
        {
            "file": wrong.file,
            "line": wrong.problem.line,
            "key": wrong.problem.path,
            "value": wrong.problem.value,
            "message": wrong.problem.text,
            "text": str(wrong),
        }
        for wrong in found.wrong
    ]
    used = _in_use(found)
    variables = _variables(used, paths)
    problems += [*_spoilt_keys(paths.keys_file), *_missing(used, paths, variables)]
    return {
        "valid": not problems,
        "files": [layer.origin for layer in found.layers if layer.origin != "environment"],
        "problems": problems,
        "warnings": [
            *found.warnings,
            *unused(found),
            *_loose(found, paths),
            *_without_effect(found),
            *_variables_as_keys(found),
            *_in_the_clear(found),
            *_set_in_one_place(variables),
            *_good_nowhere(found),
            *_no_globs(found),
            *_never_asked(found),
            *_not_moved(found, paths),
        ],
    }


_NOWHERE = {"file": None, "line": None, "value": None}


def unused(found: settings.Settings) -> Iterator[str]:
    said = {path[:length] for path, _ in layers.leaves(found.document) for length in range(1, len(path) + 1)}
    for path in sorted(said, key=str):
        field = schema.at(path)
        if isinstance(field, Field) and not field.wired:
            yield f"{schema.dotted(path)} is checked, and not used by this version"


def _spoilt_keys(keys_file: Path) -> Iterator[dict[str, Any]]:
    """What is wrong with the file of `proxyctl keys`."""
    try:
        read(keys_file)
    except Fault as fault:
        text = f"{fault.message}; {fault.hint}"
        yield {**_NOWHERE, "file": str(keys_file), "key": "", "message": text, "text": text}


def _loose(found: settings.Settings, paths: Paths) -> Iterator[str]:
    """A file with a secret in it that others can read."""
    files = [paths.keys_file] if paths.keys_file.is_file() else []
    for layer in found.layers:
        secret = any(schema.is_secret(path) for path, _ in layers.leaves(layer.document))
        if secret and layer.origin.startswith("/"):
            files.append(Path(layer.origin))
    for file in files:
        if file.stat().st_mode & 0o077:
            yield f"{file} holds a key and others can read it: chmod 600 {file}"


def _without_effect(found: settings.Settings) -> Iterator[str]:
    """Settings that a provider of another kind would have."""
    own = _said_providers(found)
    for name, table in _sound_tables(found):
        if name not in own:
            continue  # another modelproxy has other settings
        passed_through = table.get("api") == "anthropic"
        kind = table.get("kind", name)
        meant = {kind, "openrouter"} if kind == "openai" and _is_openrouter(table) else {kind}
        for key in table:
            kinds = schema.PROVIDER.fields[key].kinds
            if kinds and (passed_through or meant.isdisjoint(kinds)):
                where = 'where api = "anthropic"' if passed_through else f"for {kind}"
                only = f"only {_listed(kinds)} {'has' if len(kinds) == 1 else 'have'} it"
                yield f"{schema.dotted(('providers', name, key))} does nothing {where}; {only}"


def _is_openrouter(table: dict[str, Any]) -> bool:
    """Whether one that speaks its format is that server."""
    if "server" in table:
        return bool(table["server"] == "openrouter")
    return "openrouter.ai" in table.get("base_url", "")


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|([A-Z_][A-Z0-9_]*))", re.ASCII)
"""As a shell writes one. Narrow, because what fits is shown."""


def _variables_as_keys(found: settings.Settings) -> Iterator[str]:
    for name, table in _sound_tables(found):
        if match := _VARIABLE.fullmatch(table.get("api_key", "")):
            key = schema.dotted((*schema.provider_path(name), "api_key"))
            yield (
                f'{key}: the text "{match[0]}" itself is taken as the key; for what is in the variable write '
                f'api_key_env = "{match[1] or match[2]}"'
            )


def _in_the_clear(found: settings.Settings) -> Iterator[str]:
    """Another modelproxy on another machine, reached without TLS."""
    for name, table in found.table("remotes").items():
        url = str((table or {}).get("url") or "")
        if (
            url.startswith("http://")
            and not table.get("insecure")
            and not is_here(urlsplit(url).hostname or "")
        ):
            key = schema.dotted(("remotes", name))
            yield (
                f"{key}.url = {url}: prompts and the token go there without encryption; use https or a tunnel "
                f"(ssh -L), or say {key}.insecure = true"
            )


def _good_nowhere(found: settings.Settings) -> Iterator[str]:
    """A token for a proxy that is not there; one of a model may come up at any time."""
    known = [*found.table("proxies"), "front"]
    for name, token in found.table("tokens").items():
        for glob in (token or {}).get("proxies") or ():
            if "/" not in glob and not any(aliases.fits(one, glob) for one in known):
                near = close(glob, known)
                meant = f'; did you mean "{near}"?' if near else ""
                yield f'tokens.{name}.proxies: no proxy of the configuration is called "{glob}"{meant}'


_OTHER_PATTERNS = re.compile(r"[][{}()|^$\\]|\.[*+?]")
"""What stands in no name, and means something in a pattern of another kind."""


def _no_globs(found: settings.Settings) -> Iterator[str]:
    """Names that are meant as patterns, and are none here."""
    tables = {("aliases",): found.table("aliases"), ("models", "agents"): found.table("models", "agents")}
    said: list[tuple[Key, str]] = [((*path, name), name) for path, table in tables.items() for name in table]
    for door, rules in _rules(found):
        for number, rule in enumerate(rules):
            said += [
                (("front", door, "rules", number, key), rule[key]) for key in schema.GLOBS if rule.get(key)
            ]
    for path, text in said:
        if _OTHER_PATTERNS.search(text):
            yield f'{in_words(path)}: only * and ? are special in "{text}": any text, any one character'


def _never_asked(found: settings.Settings) -> Iterator[str]:
    """Rules of a front behind one that takes all their requests."""
    for door, rules in _rules(found):
        for number, rule in enumerate(rules):
            before = next((index for index, one in enumerate(rules[:number]) if _takes_all(one, rule)), None)
            if before is not None:
                here = in_words(("front", door, "rules", number))
                yield f"{here} is never asked: the {ordinal(before + 1)} takes all of its requests"


def _rules(found: settings.Settings) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for name, table in found.table("front").items():
        rules = table.get("rules") or []
        if all(rule is not None and None not in rule.values() for rule in rules):
            yield name, rules


def _takes_all(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether whatever fits the second rule fits the first; when in doubt, no."""
    said = {key: value for key, value in first.items() if key != "to"}
    # A rule that says nothing is told as a mistake, a misspelt key mostly; nothing follows from it.
    return bool(said) and all(
        key in second and (value == second[key] or (key in schema.GLOBS and _covers(value, second[key])))
        for key, value in said.items()
    )


def _covers(glob: str, other: str) -> bool:
    return aliases.fits(other, glob) and not ("?" in glob and aliases.is_glob(other))


def _not_moved(found: settings.Settings, paths: Paths) -> Iterator[str]:
    """Ports of proxies that are up on others."""
    said = {("proxies", name): name for name in found.table("proxies")}
    said |= {
        ("front", name): "front" if name == "default" else f"front/{name}" for name in found.table("front")
    }
    ports = {key: (found.table(key[0])[key[1]] or {}).get("port") for key in said}
    running = _ports_of_now(paths) if any(port is not None for port in ports.values()) else {}
    for (kind, name), called in said.items():
        port, has = ports[kind, name], running.get(called)
        if port is not None and has not in (None, port):
            yield (
                f"{schema.dotted((kind, name, 'port'))} = {port}: {called} is up on port {has} and keeps it; "
                f"proxyctl down {called}, then proxyctl up {called}, moves it"
            )


def _ports_of_now(paths: Paths) -> dict[str, int]:
    try:
        rows = Client(paths).get("/v1/proxies")
    except Fault:
        return {}  # no supervisor runs, or none that could say it
    return {str(row["name"]): int(row["port"]) for row in rows if row.get("wanted")}


@attrs.frozen
class _Variable:
    """One that alone gives a provider's key, and where it is set."""

    provider: str
    name: str
    here: bool
    there: bool | None
    """Where the supervisor runs; None: none runs, or none that could say it."""


def _variables(used: _InUse, paths: Paths) -> list[_Variable]:
    """Of these providers. The supervisor is asked for yes and no, and tells no key."""
    asked = {
        name: one.key.env
        for name, (one, _) in used.items()
        if one.key.env and one.needs_key and not has_key(name, one, paths, environment={})
    }
    held: dict[str, bool] = {}
    if asked:
        try:
            held = Client(paths).get(f"/v1/variables?names={','.join(sorted(set(asked.values())))}")
        except Fault:
            pass  # no supervisor runs, or none that could say it
    return [
        _Variable(provider, name, bool(os.environ.get(name)), held.get(name))
        for provider, name in asked.items()
    ]


def _set_in_one_place(variables: list[_Variable]) -> Iterator[str]:
    for one in variables:
        if one.here and one.there is False:
            yield (
                f"{one.provider}: {one.name} is set in this shell, and not where the supervisor runs: up from here "
                "gives the key along, and what the supervisor starts by itself has none; "
                f"proxyctl keys set {one.provider} is for both"
            )
        elif one.there and not one.here:
            yield (
                f"{one.provider}: {one.name} is set where the supervisor runs, and not in this shell: its proxies "
                "have the key, and proxyctl models list asks without one"
            )


def _missing(used: _InUse, paths: Paths, variables: list[_Variable]) -> Iterator[dict[str, Any]]:
    """Each provider that a mapping names and that has no key (S92), by its table."""
    there = {one.provider for one in variables if one.there}
    for name, (provider, users) in used.items():
        if not provider.needs_key or name in there or has_key(name, provider, paths):
            continue
        need = f"is used by {', '.join(users)}"
        variable = f"set {provider.key.env}, or " if provider.key.env else ""
        text = f"{name} has no API key, and {need}: {variable}say proxyctl keys set {name}"
        if provider.key.file is not None:
            text = f"{name} {need}, and its key file {provider.key.file} is not there"
        key = schema.dotted(schema.provider_path(name))
        yield {**_NOWHERE, "key": key, "message": text, "text": text}


def _in_use(found: settings.Settings) -> _InUse:
    spoilt = configured(found) - {name for name, _ in _sound_tables(found)}
    providers = {name: one for name, one in provider_table(found).items() if name not in spoilt}
    return {name: (providers[name], users) for name, users in sorted(_used(found, providers).items())}


def _used(found: settings.Settings, providers: dict[str, Provider]) -> dict[str, list[str]]:
    used: dict[str, list[str]] = {}
    names = found.table("aliases")
    for path, value in layers.leaves(found.document):
        meant = _model_of(path, value)
        for name in meant:
            resolved = aliases.resolve(name, names, providers)
            provider = "" if resolved is None else parted(resolved.model_id)[0]
            if provider in providers:  # else it is among what is wrong already
                used.setdefault(provider, []).append(schema.dotted(path))
    return {name: list(dict.fromkeys(users)) for name, users in used.items()}  # two rules are one list


def _model_of(path: Key, value: Any) -> list[str]:
    """What a setting names as a model."""
    if path[0] == "aliases" or (path[0] == "models" and path[1:2] != ("fallback",)):
        return [value] if isinstance(value, str) else []
    if path[0] == "proxies" and path[-1] == "model":
        return [value] if isinstance(value, str) else []
    if path[0] == "proxies" and path[-1] == "fallback":
        return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
    if path[0] == "front" and path[-1] == "rules":
        targets = [one.get("to") for one in value if isinstance(one, dict)] if isinstance(value, list) else []
        return [one for one in targets if isinstance(one, str)]
    if path[0] == "front" and path[-1] == "otherwise":
        return [value] if isinstance(value, str) else []
    return []


def provider_table(found: settings.Settings) -> dict[str, Provider]:
    """The providers of all layers. Of a table with mistakes nothing holds: what is built in stays as it is."""
    return build(_document(_sound_tables(found))).providers


def configured(found: settings.Settings) -> set[str]:
    """The providers that a table says something of, by the name before their models'."""
    return set(_said_tables(found))


def _sound_tables(found: settings.Settings) -> list[tuple[str, dict[str, Any]]]:
    """Without mistakes of their own: those are told, and what would follow from them is guesswork."""
    return [(name, table) for name, table in _said_tables(found).items() if not _is_spoilt(name, table)]


def _said_providers(found: settings.Settings) -> dict[str, Any]:
    tables = found.document.get("providers")
    return tables if isinstance(tables, dict) else {}


def _said_tables(found: settings.Settings) -> dict[str, Any]:
    """Those of other modelproxies as well."""
    remotes = found.document.get("remotes")
    named = remotes.items() if isinstance(remotes, dict) else ()
    return _said_providers(found) | {f"{REMOTE}/{name}": table for name, table in named}


def _document(tables: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The configuration that says these and nothing else."""
    found: dict[str, dict[str, Any]] = {}
    for provider, table in tables:
        kind, name = schema.provider_path(provider)
        found.setdefault(str(kind), {})[str(name)] = table
    return found


def _is_spoilt(name: str, table: Any) -> bool:
    try:
        build(_document([(name, table)]))
    except ConfigError:
        return True
    return False


def stranger(paths: Paths, provider: str) -> str | None:
    """What to say of a key for a provider that there is none of (yet); None: there is one."""
    found = settings.read(paths)
    known = provider_table(found)
    if provider in known or provider in configured(found):
        return None
    if (said := aliases.no_profile(provider, known)) is not None:
        return said
    near = close(provider, known)
    meant = f'; did you mean "{near}"?' if near else f" yet; [providers.{provider}] makes one"
    return f'there is no provider "{provider}"{meant}'


def before_stored(paths: Paths, provider: str) -> str | None:
    """What goes before a key that `keys set` keeps, or makes it needless; None: nothing does."""
    known = provider_table(settings.read(paths)).get(provider)
    if known is None:
        return None
    return _goes_before(provider, known.key) or _NEEDLESS.get(known.kind)


_NEEDLESS = {
    "echo": "echo asks nobody, and uses no key",
    "ollama": "Ollama itself needs no key; this one is sent with every request, for a server in front of it that "
    "asks for one",
}


def _goes_before(provider: str, key: ProviderKey) -> str | None:
    if key.env and os.environ.get(key.env):
        return f"the variable {key.env} is set in this shell, and goes before it"
    for said, field in ((key.value, "api_key"), (key.file, "api_key_file"), (key.command, "api_key_command")):
        if said is not None:
            return f"{field} under [{schema.dotted(schema.provider_path(provider))}] goes before it"
    return None


def has_key(
    name: str, provider: Provider, paths: Paths, environment: Mapping[str, str] | None = None
) -> bool:
    """Whether there is a source; commands are not run for that. Of a spoilt file of keys nobody knows: it may be."""
    key, variables = provider.key, os.environ if environment is None else environment
    if (key.env and variables.get(key.env)) or key.value or key.command:
        return True
    if key.file is not None:
        return Path(key.file).expanduser().is_file()
    try:
        return stored(paths.keys_file, name, needed=provider.needs_key) is not None
    except KeyUnavailableError:
        return True  # what is wrong there is told by itself


# --- what holds -------------------------------------------------------------------------------------------


def effective(paths: Paths) -> tuple[list[layers.Setting], list[str]]:
    """Every value that holds, secrets masked, and what there is to warn of."""
    found = settings.read(paths)
    warnings = [*found.warnings, *map(str, found.wrong), *unused(found)]
    return [_masked(one) for one in layers.settings(found.layers)], warnings


def _masked(one: layers.Setting) -> layers.Setting:
    if not (schema.is_secret(one.path) or _is_wrong_and_unsaid(one)):
        return one
    hidden = mask(one.value) if isinstance(one.value, str) and one.path[-1] == "api_key" else "***"
    return layers.Setting(one.path, hidden, one.origin, one.line)


def _is_wrong_and_unsaid(one: layers.Setting) -> bool:
    """A secret may stand where none belongs, as a password in an address; what says so does not repeat it."""
    found: list[Any] = []
    kind = schema.value_at(one.path)
    if kind is not None:
        kind.read(one.value, one.path, lambda path, value, text: found.append(value))
    return UNSHOWN in found


def rows(found: list[layers.Setting]) -> list[dict[str, Any]]:
    return [
        {"key": schema.dotted(one.path), "value": one.value, "origin": one.origin, "line": one.line}
        for one in found
    ]


def nested(found: list[layers.Setting]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for one in found:
        here = document
        for part in one.path[:-1]:
            here = here.setdefault(str(part), {})
        here[str(one.path[-1])] = one.value
    return document


def lines(found: list[layers.Setting], *, origin: bool) -> list[str]:
    """`key = value`, with where it was said behind it."""
    told = [(f"{schema.dotted(one.path)} = {literal(one.value)}", one) for one in found]
    if not origin:
        return [text for text, _ in told]
    width = min(max((len(text) for text, _ in told), default=0), 60)
    return [f"{text:<{width}}  # {_place(one)}" for text, one in told]


def _place(one: layers.Setting) -> str:
    return one.origin if one.line is None else f"{one.origin}:{one.line}"


def literal(value: Any) -> str:
    """As it stands in a file."""
    if isinstance(value, dict):
        if not value:
            return "{}"
        return (
            "{ " + ", ".join(f"{schema.dotted((key,))} = {literal(one)}" for key, one in value.items()) + " }"
        )
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError:  # a date
        return str(value)


def overruled(paths: Paths, path: Key) -> str | None:
    """What to say to somebody who changes his own file where another goes before it; None: nothing does."""
    for layer in settings.read(paths).layers:
        if layer.origin != str(paths.config_file) and layers.says(layer.document, path):
            line = layer.lines.get(path)
            place = layers.said_by(layer, path) + ("" if line is None else f":{line}")
            return f"{place} says {schema.dotted(path)} too, and goes before your own file here"
    return None


def nearest(paths: Paths, path: Key, *, own: bool = False) -> str:
    """`did you mean proxies.coder?`; empty when nothing that is set is near. `own`: in the user's own file."""
    layers_here = settings.read(paths).layers
    here: Any = settings.merged(
        layer for layer in layers_here if not own or layer.origin == str(paths.config_file)
    )
    meant: list[str | int] = []
    for part in path:
        if not isinstance(here, dict):
            return ""
        near = part if part in here else close(str(part), here)
        if near is None:
            return ""
        meant.append(near)
        here = here[near]
    return "" if tuple(meant) == path else f"did you mean {schema.dotted(tuple(meant))}?"


def _how_to_set(path: Key, name: str) -> str:
    hint = f"proxyctl config set {name} VALUE"
    if path[0] == "providers" and len(path) == 3:
        if path[-1] == "api_key":  # not on a command line
            hint = f"proxyctl keys set {path[1]}"
        return f"{hint}; proxyctl models providers {path[1]} shows what holds without it"
    return hint


def get(paths: Paths, path: Key) -> dict[str, Any]:
    """One value or table that holds."""
    found, _ = effective(paths)
    below = [one for one in found if one.path[: len(path)] == path]
    name = schema.dotted(path)
    if not below:
        settings.read(paths).refuse_withheld_key(path)
        raise Fault("not_set", f"{name} is not set", nearest(paths, path) or _how_to_set(path, name))
    if below[0].path == path:
        [row] = rows(below[:1])
        return row
    value = nested([layers.Setting(one.path[len(path) :], one.value, one.origin) for one in below])
    return {
        "key": name,
        "value": value,
        "origin": ", ".join(dict.fromkeys(one.origin for one in below)),
        "line": None,
    }
