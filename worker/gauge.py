"""How far our estimate of a prompt is from what the provider counts, learnt from its answers. Pure.

Tokenizers differ: the same prose is 3.6 bytes a token for one model and 4.5 for another. A factor per worker
(a worker has one model) follows what the provider says of whole prompts.
"""

from __future__ import annotations

import attrs

from .wire.items import Usage

LEAST, MOST = 0.5, 2.0
"""Anything further off is no tokenizer: some servers count only what they had not cached."""
SMALLEST = 200
"""In smaller prompts the template around the messages weighs more than they do."""
WEIGHT = 0.3


@attrs.define
class Gauge:
    factor: float = 1.0
    _taught: bool = False

    def tuned(self, estimate: int) -> int:
        """The estimate as this provider would count it; never 0."""
        return max(1, round(estimate * self.factor))

    def learn(self, estimate: int, said: Usage) -> None:
        """Compare an untuned estimate with what the provider said of the same prompt."""
        if said.input_tokens is None or estimate < SMALLEST:
            return
        if said.web_searches:
            return  # what was found has been read as well, and once more for each search
        counted = said.input_tokens + said.cache_read_input_tokens + said.cache_creation_input_tokens
        ratio = counted / estimate
        if not LEAST <= ratio <= MOST:
            return
        # The first answer is believed at once: a guess is no evidence to weigh it against.
        self.factor += (ratio - self.factor) * (WEIGHT if self._taught else 1.0)
        self._taught = True
