"""Whether the parts of a configuration fit together: what one table names must exist in another. Pure.

Runs over what `schema.read` has left: a value that was wrong is None, and then nothing is said of it twice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from modelproxy.worker.model_ids import REMOTE, parted

from . import aliases
from .schema import KEY_FIELDS, KINDS, NATIVE, RESERVED
from .toml_lines import Path
from .values import UNSHOWN, Report, close, guess

_NEEDS_URL = ("openai",)
OWN = "anthropic"
"""As a target: the caller's own request."""


def check(found: Mapping[str, Any], report: Report) -> None:
    """Report what cannot be meant."""
    _Checks(found, report).all()


class _Checks:
    def __init__(self, found: Mapping[str, Any], report: Report) -> None:
        self._found = found
        self._report = report
        self._providers = aliases.providers_of(_table(found, "providers"), _table(found, "remotes"))
        self._aliases = {name: to for name, to in _table(found, "aliases").items() if to is not None}
        self._named = {name for name in _table(found, "proxies") if "/" not in name}

    def all(self) -> None:
        for name, table in self._tables("providers"):
            self._provider(("providers", name), name, table)
        for name, target in self._aliases.items():
            self._alias(("aliases", name), name, target)
        for name, table in self._tables("proxies"):
            self._proxy(("proxies", name), name, table)
        self._ports()
        self._models(_table(self._found, "models"))
        for name, table in self._tables("front"):
            self._front(("front", name), table)
        for name, table in self._tables("tokens"):
            if "sha256" not in table:
                hint = f"sha256 is missing; proxyctl tokens add {name} makes a token"
                self._report(("tokens", name), UNSHOWN, hint)
        for name, table in self._tables("remotes"):
            self._one_key(("remotes", name), table)
            if "url" not in table:
                self._report(("remotes", name), UNSHOWN, "url is missing")

    def _tables(self, kind: str) -> list[tuple[str, Mapping[str, Any]]]:
        """Those that are tables; of what is none, nothing is missing."""
        return [(name, table) for name, table in _table(self._found, kind).items() if table is not None]

    def _provider(self, path: Path, name: str, table: Mapping[str, Any]) -> None:
        self._one_key(path, table)
        if name == "front":
            self._report(path, UNSHOWN, _means(name, "a provider"))
        if name == REMOTE:
            hint = f"each is a table [remotes.NAME] with a url, for {REMOTE}/NAME/provider/model-name"
            self._report(path, UNSHOWN, f'"{name}" means another modelproxy: {hint}')
        elif "kind" not in table and name not in KINDS:
            near = close(name, KINDS)
            meant = f"; did you mean [providers.{near}]?" if near else ""
            self._report(path, UNSHOWN, f"kind is missing: one of {', '.join(KINDS)}{meant}")
        elif table.get("kind") in _NEEDS_URL and name not in KINDS and "base_url" not in table:
            self._report(path, UNSHOWN, "base_url is missing")

    def _one_key(self, path: Path, table: Mapping[str, Any]) -> None:
        given = [field for field in KEY_FIELDS if field in table]
        if len(given) > 1:
            self._report(path, UNSHOWN, f"give only one of {', '.join(given)}")

    def _alias(self, path: Path, name: str, target: str) -> None:
        if aliases.is_model_id(name, self._providers):
            provider = parted(name)[0]
            self._report(
                path, target, f"would never be used: {provider}/… are the names of {provider}'s models"
            )
        elif aliases.is_reserved(name):
            self._report(path, target, _means(name, "an alias"))
        elif name in self._named:
            self._report(path, target, f"is the name of a proxy as well: [proxies.{name}]; rename one")
        elif not aliases.is_model_id(target, self._providers):
            self._alias_target(path, name, target)

    def _alias_target(self, path: Path, name: str, target: str) -> None:
        chain = [name]
        while (after := aliases.find(chain[-1], self._aliases)) is not None and after not in chain:
            chain.append(after)
        if after is not None:
            self._report(path, target, f"goes round in a circle: {' → '.join([*chain, after])}")
        elif len(chain) > 2:
            self._report(path, target, f'is an alias itself, and one hop is the limit: write "{chain[-1]}"')
        else:
            self._model_id(path, target)

    def _model_id(self, path: Path, target: str) -> None:
        provider, model = parted(target)
        if (said := aliases.no_profile(provider, self._providers)) is not None:
            self._report(path, target, said)
        elif not model or not provider:
            form = f"{provider}/provider/model-name" if "/" in provider else "provider/model-name"
            self._report(path, target, f"is not a model id. Expected: {form}")
        elif provider in NATIVE:
            self._report(path, target, f'there is no provider "{provider}"; did you mean "{OWN}/{model}"?')
        else:
            self._report(
                path, target, f'there is no provider "{provider}"{guess(provider, _dict(self._providers))}'
            )

    def _is_known(self, target: str) -> bool:
        return aliases.resolve(target, self._aliases, self._providers) is not None

    def _target(self, path: Path, target: Any, *, words: Collection[str] = (), proxies: bool = True) -> None:
        """`target` must be a model id, an alias, one of `words`, or the name of a proxy."""
        if target is None or target in words or self._is_known(target) or (proxies and target in self._named):
            return
        if target in _table(self._found, "aliases"):
            return  # an alias whose own value is wrong, which has been said
        if said := self._meant_otherwise(target, words):
            self._report(path, target, said)
        elif "/" in target:
            self._model_id(path, target)
        else:
            known = {*words, *self._aliases, *(self._named if proxies else ())}
            kinds = "a model id, an alias or a proxy's name" if proxies else "a model id or an alias"
            near = f"{_guess_of_words(target, known)}" if known else ""
            self._report(path, target, f"is not {kinds}. Expected: provider/model-name{near}")

    def _meant_otherwise(self, target: str, words: Collection[str]) -> str | None:
        """What to say of a name that means something, and that cannot be led to."""
        if target in NATIVE and OWN in words:
            return f'is "{OWN}" here: the caller\'s own request, to Anthropic'
        if target in self._named:
            model = (self._found["proxies"][target] or {}).get("model")
            like = f', like "{model}"' if model is not None and self._is_known(model) else ""
            return f"is a proxy, and a model is wanted here{like}"
        if target.partition("/")[0] == "front":
            return "is a front door, and nothing leads to one: name a proxy, a model or an alias"
        return None

    def _proxy(self, path: Path, name: str, table: Mapping[str, Any]) -> None:
        if name in RESERVED:
            self._report(path, UNSHOWN, _means(name, "a proxy"))
        if "/" in name:
            if not aliases.is_model_id(name, self._providers):
                self._model_id(path, name)
            if table.get("model") not in (None, name):
                self._report((*path, "model"), table["model"], "must be left out: the table's name says it")
        elif "model" not in table:
            self._report(path, UNSHOWN, 'model is missing, like model = "ollama/codellama"')
        else:
            self._target((*path, "model"), table["model"], proxies=False)
        self._fallback(path, name if "/" in name else table.get("model"), table.get("fallback") or ())

    def _fallback(self, path: Path, model: str | None, targets: Sequence[str]) -> None:
        own, seen = self._resolved(model), set[str]()
        for index, target in enumerate(targets):
            at = (*path, "fallback", index)
            self._target(at, target, words=(OWN,))
            meant = self._resolved(target)
            if meant is not None and meant == own:
                self._report(at, target, "is the proxy's own model; name another one")
            elif meant in seen:
                self._report(at, target, "is asked already; say each but once")
            elif meant is not None:
                seen.add(meant)

    def _resolved(self, target: str | None) -> str | None:
        if target is None or target == OWN:
            return target
        if target in self._named and not self._is_known(target):
            target = (self._found["proxies"][target] or {}).get("model")
        found = None if target is None else aliases.resolve(target, self._aliases, self._providers)
        return None if found is None else found.model_id

    def _ports(self) -> None:
        taken: dict[int, str] = {}
        for kind, called in (("proxies", "{}"), ("front", "front/{}")):
            for name, table in _table(self._found, kind).items():
                port = (table or {}).get("port")
                if port in taken:
                    self._report((kind, name, "port"), port, f"is the port of {taken[port]} too")
                elif port is not None:
                    taken[port] = called.format(name)

    def _models(self, table: Mapping[str, Any]) -> None:
        self._target(("models", "default"), table.get("default"), words=NATIVE)
        for agent, target in (table.get("agents") or {}).items():
            self._target(("models", "agents", agent), target, words=NATIVE)

    def _front(self, path: Path, table: Mapping[str, Any]) -> None:
        self._target((*path, "otherwise"), table.get("otherwise"), words=(OWN,))
        for index, rule in enumerate(table.get("rules") or ()):
            at = (*path, "rules", index)
            if rule is None:
                continue
            if "to" not in rule:
                self._report(at, UNSHOWN, 'to is missing, like to = "ollama/codellama"')
            if not set(rule) - {"to"}:
                self._report(
                    at,
                    UNSHOWN,
                    "says nothing of which requests it is for: agent, model, request, marker or session",
                )
            self._target((*at, "to"), rule.get("to"), words=(OWN,))


def _means(name: str, kind: str) -> str:
    means = RESERVED[name.partition("/")[0]]
    return f'"{name}" cannot be the name of {kind}: it means {means}; choose another name'


def _guess_of_words(target: str, known: Collection[str]) -> str:
    """A slip may be one of any word; of those that mean the same, one is offered, with what it means."""
    if set(NATIVE) <= set(known):
        told, same = "claude (the agent's own model)", set(NATIVE)
    else:
        told, same = f"{OWN} (the caller's own request)", {OWN}
    if close(target, sorted(known)) is not None or not same <= set(known):
        return guess(target, _dict(known))
    return f"; known are {', '.join([told, *(one for one in sorted(known) if one not in same)])}"


def _table(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    return found.get(name) or {}


def _dict(names: Collection[str]) -> dict[str, None]:
    return dict.fromkeys(sorted(names))
