"""What holds for every test."""

from __future__ import annotations

import signal

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
