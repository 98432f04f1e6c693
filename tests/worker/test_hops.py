"""What speaks of one connection. That it goes no further: test_pool.py, test_anthropic_relay.py."""

from __future__ import annotations

from modelproxy.worker.wire import hops


def test_names_are_in_lower_case_and_none_speaks_of_the_message() -> None:
    assert hops.OF_CONNECTION < hops.OF_REQUEST
    assert all(name == name.lower() for name in hops.OF_REQUEST)
    assert not hops.OF_REQUEST & {b"content-type", b"authorization", b"x-api-key", b"anthropic-version"}
