"""What the groups of commands have in common, beside what `typed` reads."""

from __future__ import annotations

from typing import Annotated

import typer

from .faults import talk

Json = Annotated[bool, typer.Option("--json", help="Print JSON; errors too.")]


def group() -> typer.Typer:
    """Alone it says what it has; what it says is plain text everywhere."""
    return typer.Typer(no_args_is_help=True, rich_markup_mode=None)


def tell_who_goes_before(path: tuple[str | int, ...]) -> None:
    """Something else may say the same key, and count: whoever has just set it is told."""
    from modelproxy.supervisor.paths import find

    from .config_view import overruled

    words = overruled(find(), path)
    if words is not None:
        talk(f"warning: {words}")
