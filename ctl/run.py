"""`proxyctl run`: bring up what a command needs, run it with the right environment, put everything back.

Without a model, an agent with an entry, or any entry at all there is nothing to do, and the command takes our
place. When the proxy cannot be had the command runs as it would have without us, after a loud line: an agent
with its own model is better than none. Not so when what was typed makes no sense: nobody asked for that.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from modelproxy.supervisor.paths import Paths
from modelproxy.supervisor.schema import NATIVE
from modelproxy.supervisor.values import close

from . import agents, child, codex, environment, health, leases, names, probe, settings
from .environment import GUARD, Goal
from .faults import EXIT_FAILED, EXIT_USAGE, Fault, talk, usage
from .names import FRONT
from .quick import become
from .up import bring_up, request

NOT_SERVED = "not_served"


@attrs.frozen
class Wish:
    """What was typed in front of the command."""

    model: str | None = None
    agent: str | None = None
    keep: bool = False
    fallback: bool = True
    port: int | None = None
    wait_s: float | None = None


def run(paths: Paths, wish: Wish, command: Sequence[str]) -> int:
    """Run the command; its exit code."""
    if not command:
        hint = f"proxyctl run {wish.model or 'ollama/codellama'} -- claude"
        raise usage("There is no command to run: it stands behind --", hint)
    try:
        child.check(command)
        return _run(paths, wish, command)
    except child.NotRunnableError as error:
        talk(f"error: {error}")
        return error.code


def _run(paths: Paths, wish: Wish, command: Sequence[str]) -> int:
    inside = os.environ.get(GUARD)
    if inside:
        if wish.model is not None or wish.agent is not None:
            talk(f"note: this is inside proxyctl run already: {command[0]} uses {inside}")
        return become(command)
    try:
        target = meant(paths, wish)
        if target is None:
            return become(command)
        view, lease = _up(paths, target, wish)
    except Fault as fault:
        _refuse_or_go_on(paths, wish, fault, command[0])
        return become(command)
    try:
        goal, client = goal_of(paths, view, wish.agent), environment.client_of(command[0])
        if client != "codex" or codex.is_served(goal, command):
            words = _told(command, goal, client)
            return child.run(words, _environment(view, goal, client, command))
    finally:
        if lease is not None:
            _give_back(lease)
    _refuse_or_go_on(paths, wish, _no_model_for_codex(goal), command[0])
    return become(command)


def _told(command: Sequence[str], goal: Goal, client: str) -> list[str]:
    """The command, with what its program wants to be told there and not by its environment."""
    more = codex.flags(codex.config(goal, os.environ)) if client == "codex" else []
    return [command[0], *more, *command[1:]]


def meant(paths: Paths, wish: Wish) -> str | None:
    """What is to be up; None: nothing is, this user or agent has its own model."""
    if wish.model is not None:
        return names.model(paths, wish.model)
    found = settings.read(paths)
    if found.wrong:
        raise settings.bad_config(found.wrong)
    if wish.agent is not None:
        withheld = agents.needs_trust(found, wish.agent)
        if withheld is not None:
            raise found.untrusted(withheld)
        _tell_of_a_near_name(found, wish.agent)
        entry = agents.mean(found, wish.agent)
        return None if entry.model_id is None else entry.target
    if has_mappings(found):
        return FRONT
    for warning in found.warnings:  # who brings something up tells them itself
        talk(f"warning: {warning}")
    return None


def _tell_of_a_near_name(found: settings.Settings, agent: str) -> None:
    """An agent without an entry is nothing wrong; one that is nearly called like another may well be."""
    entries = found.table("models").get("agents") or {}
    near = close(agent, entries) if agents.entry_of(found, agent) is None else None
    if near is not None:
        talk(f'note: the agent "{agent}" has no entry; did you mean "{near}"?')


def has_mappings(found: settings.Settings) -> bool:
    """Whether anybody is to use another model than its own."""
    models = found.table("models")
    said = [*(models.get("agents") or {}).values(), models.get("default")]
    return bool(found.table("front")) or any(one is not None and one not in NATIVE for one in said)


def _no_model_for_codex(goal: Goal) -> Fault:
    words = f"codex asks for a model of OpenAI's, and {goal.name} leads to none"
    return Fault(NOT_SERVED, words, "codex -m NAME, or proxyctl run MODEL -- codex")


def _up(paths: Paths, target: str, wish: Wish) -> tuple[dict[str, Any], leases.Lease | None]:
    """The proxy's row, and a lease of it unless it is to be kept. Where its port is a stranger's, on any other.

    Nobody but the command needs to know it; who runs the same at the same time is given the same proxy.
    """
    wanted = request(model=target, port=wish.port, wait_s=wish.wait_s)
    if wish.keep:
        return bring_up(paths, wanted, anywhere=True), None
    lease = leases.take(paths, wanted, anywhere=True)
    return lease.view, lease


def _refuse_or_go_on(paths: Paths, wish: Wish, fault: Fault, program: str) -> None:
    """Raise where the command is not to run; else say what it runs without."""
    typed_wrong = fault.exit_code == EXIT_USAGE and (wish.model is not None or wish.port is not None)
    if typed_wrong:
        raise fault
    if fault.code == NOT_SERVED and (wish.model is not None or wish.agent is not None):
        # No trouble that may pass: the wish can never come true, and the prompts would go where nobody sent them.
        raise Refusal(fault.code, f"{fault.message}; {program} was not run", fault.hint)
    may = wish.fallback and settings.read(paths).table("models").get("fallback", True)
    if not may:
        why = "--no-fallback" if not wish.fallback else "models.fallback = false"
        raise Refusal(fault.code, f"{fault.message}; {program} was not run ({why})", fault.hint)
    hint = f" ({fault.hint})" if fault.hint else ""
    talk(f"warning: NO PROXY: {fault.message}{hint}; {program} runs without it, on its own model")


class Refusal(Fault):
    """The command was not run. One exit code for every reason."""

    @property
    def exit_code(self) -> int:
        return EXIT_FAILED


def _environment(view: dict[str, Any], goal: Goal, client: str, command: Sequence[str]) -> dict[str, str]:
    found = [*health.warnings(view), *environment.warnings(goal, os.environ)]
    for warning in found or environment.missing(goal, client):
        talk(f"warning: {warning}")
    for note in _notes(command) if client == "anthropic" else ():
        talk(f"note: {note}")
    changes = environment.changes(goal, client, os.environ)
    return changes.applied(os.environ) | {GUARD: goal.name}


def _notes(command: Sequence[str]) -> Iterator[str]:
    """Of a program that nobody knows: what of it may not come to the proxy."""
    program = command[0]
    if (name := environment.goes_to_openai(os.environ)) is not None:
        yield f"{name} is set: what {program} asks of OpenAI's API goes where it did; see proxyctl env --for openai"
    if (client := environment.behind(command)) is not None:
        yield (
            f"if {program} starts {client}, that goes where it did: it reads no base URL; "
            f"say proxyctl run MODEL -- {client} …, or see proxyctl env --for {client}"
        )


def goal_of(paths: Paths, view: dict[str, Any], agent: str | None = None) -> Goal:
    """What a client must know of a proxy that is up."""
    provider = str(view["provider"])
    kind = provider
    if provider not in ("echo", "ollama", "openrouter", "openai", "anthropic", FRONT):
        table = settings.read(paths).table("providers").get(provider) or {}
        kind = str(table.get("kind") or provider)
    goal = environment.goal_of(view, kind, _sizes(view, kind), agent)
    return attrs.evolve(goal, token_refused=goal.token_required and probe.refuses(view))


def _sizes(view: dict[str, Any], kind: str) -> tuple[int | None, int | None]:
    """Those of its model. Where nothing of a front goes to Anthropic: of the one that most requests go to."""
    if kind != FRONT:
        return probe.sizes(view)
    named = (one for one in view.get("targets", ()) if one["name"] == view.get("otherwise"))
    place = next((one for one in named if one["port"] is not None), None)
    return (None, None) if place is None else probe.sizes(place)


def _give_back(lease: leases.Lease) -> None:
    """The command has ended, and its exit code is what counts: who is impatient only stops the waiting."""
    before = signal.getsignal(signal.SIGINT)
    try:
        lease.end()
    except KeyboardInterrupt:
        talk(f"note: {lease.view['name']} still finishes what it has begun")
    finally:
        signal.signal(signal.SIGINT, before)
