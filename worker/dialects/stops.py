"""Stop sequences, kept on our side of a provider that does not know them (or not as many)."""

from __future__ import annotations

import re


class Stops:
    """Text in, text out, until one of the sequences has appeared, however the text was cut."""

    def __init__(self, sequences: list[str]) -> None:
        self._sequences = sequences
        # Longest first: of two that begin at the same place the regex takes the first that fits.
        ordered = sorted(sequences, key=len, reverse=True)
        self._found = re.compile("|".join(map(re.escape, ordered))) if ordered else None
        self._longest = len(ordered[0]) if ordered else 0
        self._held = ""
        self.matched: str | None = None
        """The sequence that ended the text."""

    def feed(self, text: str) -> str:
        """Return what may be shown. What could still become a sequence is held back."""
        if self._found is None or self.matched is not None:
            return text if self._found is None else ""
        text = self._held + text
        hit = self._found.search(text)
        if hit is not None:
            self.matched, self._held = hit.group(), ""
            return text[: hit.start()]
        keep = self._unfinished(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        """What was held back and did not become a sequence."""
        held, self._held = self._held, ""
        return held

    def _unfinished(self, text: str) -> int:
        """Length of the longest tail that begins one of the sequences."""
        for size in range(min(self._longest - 1, len(text)), 0, -1):
            tail = text[-size:]
            if any(sequence.startswith(tail) for sequence in self._sequences):
                return size
        return 0
