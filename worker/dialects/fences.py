"""Bare JSON out of an answer that wraps it in a code fence, however the text was cut."""

from __future__ import annotations

import re

_OPENING = re.compile(r"\s*```[^\n`]{0,20}\n")
_COULD_OPEN = re.compile(r"\s*(`{0,3}|```[^\n`]{0,20})")
_CLOSING = re.compile(r"\s*```\s*")
_COULD_CLOSE = re.compile(r"\s*`{0,3}\s*\Z")


class Fences:
    """Text in, text out without the fence around all of it. Fences elsewhere are left alone."""

    def __init__(self) -> None:
        self._held = ""
        self._begun = False
        self._fenced = False

    def feed(self, text: str) -> str:
        """What is certain now; what could still be a part of the fence is held back."""
        text, self._held = self._held + text, ""
        if not self._begun:
            if _COULD_OPEN.fullmatch(text):
                self._held = text
                return ""
            self._begun = True
            opening = _OPENING.match(text)
            if opening is not None:
                self._fenced = True
                text = text[opening.end() :]
        return self._without_tail(text) if self._fenced else text

    def _without_tail(self, text: str) -> str:
        """The closing fence can be told only at the end, so what looks like one waits."""
        tail = _COULD_CLOSE.search(text)
        start = len(text) if tail is None else tail.start()
        self._held = text[start:]
        return text[:start]

    def end(self) -> str:
        """What was held back and is no fence."""
        held, self._held = self._held, ""
        return "" if self._fenced and _CLOSING.fullmatch(held) else held
