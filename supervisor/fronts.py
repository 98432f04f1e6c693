"""What a front goes by: the configuration's tables as one list of rules, the first that fits decides. Pure.

First the table's own rules, then what each agent uses, then names: whoever asks for an alias, for a named proxy
or for a model that is led to gets it. Of agents and aliases the exact name goes before the longest glob. Every
target is another proxy, or `anthropic`: the caller's own request. Where the proxies are is not known here.
"""

from __future__ import annotations

import attrs

from modelproxy.worker.contract import Front, FrontRule, Place
from modelproxy.worker.model_ids import parted

from . import aliases, config, routes
from .config import Config
from .protocol import Fault
from .schema import NATIVE

KIND = "front"
DEFAULT = "default"
OWN = routes.OWN


@attrs.frozen
class Compiled:
    front: Front
    """Nothing of it is up."""
    required: frozenset[str]
    """The places that the user sends requests to; of the others he has only given names."""


def table_of(requested: str, found: Config) -> str | None:
    """The name of the table [front.NAME] that `front` or `front/NAME` means; None: something else is meant.
    Nothing else can be called so (`schema.RESERVED`).

    Raises Fault for a table that is not there; without any, `front` is a plain way to Anthropic.
    """
    kind, slash, name = requested.partition("/")
    if kind != KIND:
        return None
    if not slash or name == DEFAULT:
        return DEFAULT
    if name not in found.front:
        known = ", ".join(f"front/{one}" for one in aliases.nearest(name, found.front)) or "front"
        said = f"there is no table [front.{name[:100]}] in the configuration"
        raise Fault(
            "bad_model_id", said, f"known are {known}" if found.front else f"without one there is {known}"
        )
    return name


def said(table: str) -> str:
    """What `up` calls the front of a table."""
    return KIND if table == DEFAULT else f"{KIND}/{table}"


def route(table: str, found: Config) -> routes.Route:
    """As of any proxy. What goes to Anthropic goes by the settings of that provider, but never with its key."""
    home = found.providers[OWN]
    provider = config.Provider(KIND, home.base_url, options=home.options, timeouts=home.timeouts)
    own_name = KIND if table == DEFAULT else None
    return routes.Route(said(table), KIND, provider, table, proxy=own_name)


def tables(found: Config) -> dict[str, config.Front]:
    """Every front that `up` knows, as it calls them."""
    every = {DEFAULT: config.Front(), **found.front}
    return {said(table): one for table, one in every.items()}


def doors_to(name: str, found: Config) -> list[str]:
    """Those of them that lead to the proxy of this name."""
    return [door for door, table in tables(found).items() if name in _Compiler(found).names(table)]


def leads_home(front: Front) -> bool:
    """Whether a rule leads to Anthropic; not where the proxies behind it fall back to."""
    providers = (parted(place.model_id)[0] for place in front.places)
    return OWN in (front.otherwise, *(rule.to for rule in front.rules), *providers)


def compiled(table: str, found: Config) -> Compiled:
    """The rules of a table, with those that follow from the rest of the configuration."""
    return _Compiler(found).all(found.front.get(table, config.Front()))


class _Compiler:
    """Of one table."""

    def __init__(self, found: Config) -> None:
        self._config = found
        self._rules: list[FrontRule] = []
        self._places: dict[str, Place] = {}

    def names(self, table: config.Front) -> set[str]:
        """Of all that it leads to."""
        return {place.name for place in self.all(table).front.places}

    def all(self, table: config.Front) -> Compiled:
        for rule in table.rules:
            self._rules.append(attrs.evolve(rule, to=self._to(rule.to)))
        models = self._config.models
        for agent, target in _nearest_first(models.agents):
            self._rules.append(FrontRule(self._to(target), agent=agent))
        if models.default is not None:
            self._rules.append(FrontRule(self._to(models.default), agent="*"))
        otherwise = self._to(table.otherwise)
        required = frozenset(self._places)
        self._names()
        return Compiled(Front(self._rules, list(self._places.values()), otherwise), required)

    def _names(self) -> None:
        """Real names before exact aliases before the longest glob."""
        named = [name for name, options in self._config.proxies.items() if options.model is not None]
        aliased = _nearest_first(self._config.aliases)
        names = [FrontRule(self._to(name), model=name) for name in named]
        others = [FrontRule(self._to(target), model=alias) for alias, target in aliased]
        # A proxy without a name of its own is the one that a model's name means.
        real = {place.model_id: place.name for place in reversed(self._places.values())}
        real |= {name: name for name in self._places if name in real}
        self._rules += [FrontRule(place, model=model) for model, place in sorted(real.items())]
        self._rules += [*names, *others]

    def _to(self, target: str) -> str:
        if target in NATIVE:
            return OWN
        try:
            found = routes.resolve(target, self._config)
        except Fault as fault:  # nothing that validation lets pass
            self._places.setdefault(target, Place(target, target, None, f"{fault.message}. {fault.hint}"))
            return target
        name = found.proxy or found.model_id
        self._places.setdefault(name, Place(name, found.model_id, None))
        return name


def _nearest_first(table: dict[str, str]) -> list[tuple[str, str]]:
    return [(name, table[name]) for name in sorted(table, key=aliases.distance)]


__all__ = [
    "DEFAULT",
    "KIND",
    "Compiled",
    "compiled",
    "doors_to",
    "leads_home",
    "route",
    "said",
    "table_of",
    "tables",
]
