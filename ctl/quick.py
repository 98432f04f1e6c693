"""`proxyctl run -- COMMAND` where nobody has said which model anything uses: it costs nothing.

Part of the fast path: no file is parsed here, only looked into for the words without which there is no
mapping. Whoever finds one of them decides with the whole configuration at hand.
"""

from __future__ import annotations

import os
from signal import SIG_DFL, SIGPIPE, SIGXFSZ, signal

TYPE_CHECKING = False  # see faults
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WORDS = (b"models", b"front")
_PROJECT_FILE = ".modelproxy.toml"
_MODEL_VARIABLE = "MODELPROXY_MODEL"
_FLAGS = frozenset({"--keep", "--no-fallback"})
"""Without a proxy they change nothing."""
_AT_START = "/proc/self/environ"
_COERCED = frozenset({"C.UTF-8", "C.utf8", "UTF-8"})
"""What Python says for LC_CTYPE where the locale is C (PEP 538)."""


def forget_locale() -> None:
    """Take back the LC_CTYPE that nobody but Python has said, since everything started here would see it."""
    if os.environ.get("LC_CTYPE") not in _COERCED:
        return
    try:
        with open(_AT_START, "rb") as file:
            said = file.read()
    except OSError:
        return  # who said it cannot be known here
    if b"\0LC_CTYPE=" not in b"\0" + said:
        del os.environ["LC_CTYPE"]


def command(argv: Sequence[str]) -> list[str] | None:
    """What is to be run as it is; None: that is not known here."""
    if argv[:1] != ["run"] or "--" not in argv:
        return None
    end = argv.index("--")
    words = list(argv[end + 1 :])
    if not words or not _FLAGS.issuperset(argv[1:end]):
        return None
    return None if _may_have_mappings() else words


def become(command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Run it in our place, in our environment unless another one is given. Returns only when that fails."""
    # Python ignores these, and what is ignored stays so over exec.
    before = [(signum, signal(signum, SIG_DFL)) for signum in (SIGPIPE, SIGXFSZ)]
    try:
        os.execvpe(command[0], list(command), dict(os.environ if environment is None else environment))
    except (OSError, ValueError) as error:
        for signum, handler in before:
            signal(signum, handler)
        from .child import not_runnable
        from .faults import talk

        failure = not_runnable(command[0], error)
        talk(f"error: {failure}")
        return failure.code


def _may_have_mappings() -> bool:
    if os.environ.get(_MODEL_VARIABLE):
        return True
    from modelproxy.supervisor.paths import find

    return any(_mentions(path) for path in (str(find().config_file), _PROJECT_FILE))


def _mentions(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            text = file.read()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return any(word in text for word in _WORDS)
