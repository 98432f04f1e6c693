"""What holds for every test, and the options of a run."""

from __future__ import annotations

import random
import signal

import pytest

# Whoever runs the tests in the background of a script, or under nohup, hands down ignored signals, and every
# process that a test starts would inherit them. Python's own SIGINT handler is absent then as well.
for _signum, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGTERM, signal.SIG_DFL),
    (signal.SIGQUIT, signal.SIG_DFL),
):
    if signal.getsignal(_signum) is signal.SIG_IGN:
        signal.signal(_signum, _handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("modelproxy")
    group.addoption("--seed", type=int, default=None, help="of the storm (-m chaos); otherwise a random one")
    group.addoption("--seconds", type=float, default=60.0, help="how long the storm lasts (-m chaos)")


ON_DEMAND = ("chaos", "clients")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A minute of chaos, and other people's programs, are had by asking for them: `pytest -m chaos`."""
    unasked = [marker for marker in ON_DEMAND if marker not in (config.option.markexpr or "")]
    asked_for = [item for item in items if not any(map(item.get_closest_marker, unasked))]
    if len(asked_for) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in asked_for])
        items[:] = asked_for


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The one that was asked for, or a random one; what is printed here is shown with a failure."""
    asked: int | None = request.config.getoption("--seed")
    return random.randrange(1_000_000) if asked is None else asked
