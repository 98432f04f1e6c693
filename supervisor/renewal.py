"""After an upgrade: which worker of another version is replaced next.

One at a time, each by a roll, so nothing is refused and no stream is cut. The next one's turn comes when the one
before answers. The first whose replacement fails ends it: the others would most likely fail as well, and a worker
of the old version that serves is better than none. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from .facts import Phase, Proxy


def next_one(proxies: Sequence[Proxy]) -> str | None:
    """The proxy whose turn it is; None while one is on its way, or when there is nothing to be done."""
    if any(worker.phase is Phase.ABSENT for proxy in proxies for worker in proxy.workers):
        return None  # first everybody is to be back
    waiting = _waiting(proxies)
    if any(_kept(proxy) or proxy.successor is not None or proxy.key_sought for proxy in waiting):
        return None  # while a key is being fetched nothing can be started
    return waiting[0].name if waiting else None


def is_under_way(proxies: Sequence[Proxy]) -> bool:
    """Whether anybody runs another version, also one that is leaving."""
    return any(worker.outdated for proxy in proxies for worker in proxy.workers)


def words(proxies: Sequence[Proxy]) -> list[str]:
    """What `daemon status` says about it, if there is something to say."""
    waiting = _waiting(proxies)
    if not waiting:
        return []
    number = "1 worker still runs" if len(waiting) == 1 else f"{len(waiting)} workers still run"
    text = f"{number} another version ({', '.join(sorted({_version(proxy) for proxy in waiting}))})"
    failed = [proxy for proxy in waiting if _kept(proxy)]
    if not failed:
        return [f"{text}; they are replaced one by one"]
    first = failed[0]
    reason = f"that of {first.name} failed: {first.trouble or 'for an unknown reason'}"
    return [f"{text} and serve on, for {reason}. Mend it, then proxyctl restart {first.name}"]


def _waiting(proxies: Sequence[Proxy]) -> list[Proxy]:
    return [proxy for proxy in proxies if proxy.is_up and proxy.current is not None and _version(proxy)]


def _version(proxy: Proxy) -> str:
    return (proxy.current.outdated or "") if proxy.current else ""


def _kept(proxy: Proxy) -> bool:
    return proxy.current is not None and proxy.current.kept
