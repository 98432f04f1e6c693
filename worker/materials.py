"""Gets what a request needs before it can be translated: the IO behind `dialects.material`.

Belongs to one target, like its settings. A request that needs nothing costs a look at its blocks. What cannot
be had is said in its place; no request fails for it.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from .contract import Options
from .dialects import material
from .dialects.blocks import Document, Media, Sight
from .dialects.material import Lacking, Wishes
from .extractor import Extractor
from .shelf import Shelf
from .wire.asks import Ask

MOST_TEXTS = 32 * 1024 * 1024
"""Characters of all texts that are kept."""

Log = Callable[..., None]


class Materials:
    """What the settings of a target let us get."""

    def __init__(self, options: Options, log: Log) -> None:
        self._wishes = Wishes(pdfs=options.pdf_to_text is not None)
        self._extractor = None if options.pdf_to_text is None else Extractor(options.pdf_to_text, log)
        self._texts: Shelf[str] = Shelf(MOST_TEXTS, len)

    async def fill(self, ask: Ask, sight: Sight) -> Ask:
        """The request with all that could be had."""
        wanted = list(dict.fromkeys(material.wanted(ask, sight, self._wishes)))
        if not wanted:
            return ask
        found: dict[Media, str | Lacking] = {}

        async def get(media: Media) -> None:
            found[media] = await self._get(media)

        async with trio.open_nursery() as nursery:
            for media in wanted:
                nursery.start_soon(get, media)
        return material.filled(ask, sight, self._wishes, found)

    async def _get(self, media: Media) -> str | Lacking:
        assert isinstance(media, Document)  # the wishes say so
        assert self._extractor is not None
        extractor = self._extractor
        # In a thread: the hash of many megabytes is longer than other streams should stand still.
        key = await trio.to_thread.run_sync(material.key_of, media)
        return await self._texts.get(key, lambda: extractor.text(media.data))


def of(options: Options, log: Log) -> Materials | None:
    """None: nothing is wanted, whatever a request holds."""
    return None if options.pdf_to_text is None else Materials(options, log)


__all__ = ["Materials", "of"]
