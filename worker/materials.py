"""Gets what a request needs before it can be translated: the IO behind `dialects.material`.

Belongs to one target, like its settings. A request that needs nothing costs a look at its blocks. What cannot
be had is said in its place; no request fails for it. What is had is bounded for one request as well: a file
of a few bytes may hold megabytes, an address of a few letters stands for a picture, and a dead one for ten
seconds. The first of a history are served first, so that it renders the same when it has become longer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import attrs
import trio

from .contract import Options
from .dialects import material
from .dialects.blocks import Image, ImageUrl, Sight
from .dialects.material import Found, Lacking, Wanted, Wishes
from .extractor import Extractor
from .images import Images
from .shelf import Shelf
from .wire.asks import Ask

MOST_TEXTS = 32 * 1024 * 1024
"""Characters of all texts that are kept."""
MOST_IMAGES = 64 * 1024 * 1024
"""The same of pictures, in base64."""
MOST_OF_A_REQUEST = 32 * 1024 * 1024
"""Characters of both that one request is filled with; as much as a client may send itself."""
MOST_S = 60.0
"""What one request waits for all that it needs; what has not come by then is tried in the next turn."""
AT_ONCE = 4

Log = Callable[..., None]


class Materials:
    """What the settings of a target let us get."""

    def __init__(
        self,
        options: Options,
        log: Log,
        *,
        images: Images | None = None,
        most: int = MOST_OF_A_REQUEST,
    ) -> None:
        self._wishes = Wishes(pdfs=options.pdf_to_text is not None, images=options.fetch_images)
        self._extractor = Extractor(options.pdf_to_text or "", log)
        self._images = images or Images(log)
        self._most = most
        self._texts: Shelf[str] = Shelf(MOST_TEXTS, len)
        self._pictures: Shelf[Image] = Shelf(MOST_IMAGES, lambda image: len(image.data))

    async def fill(self, ask: Ask, sight: Sight) -> Ask:
        """The request with all that could be had."""
        wanted = Counter(material.wanted(ask, sight, self._wishes))
        if not wanted:
            return ask
        return material.filled(ask, sight, self._wishes, await self._all(wanted))

    async def filled(self, ask: Ask, sight: Sight) -> Ask:
        """The request with what is here already; nothing is got for it."""
        found: dict[Wanted, Found] = {}
        for one in dict.fromkeys(material.wanted(ask, sight, self._wishes)):
            kept = await self._kept(one)
            if kept is not None:
                found[one] = kept
        return material.filled(ask, sight, self._wishes, found) if found else ask

    def wider(self, sight: Sight) -> Sight:
        """What can be shown in one form or another."""
        return attrs.evolve(
            sight,
            documents=sight.documents or self._wishes.pdfs,
            image_urls=sight.image_urls or self._wishes.images,
        )

    async def _all(self, wanted: Counter[Wanted]) -> dict[Wanted, Found]:
        late = Lacking(f"it did not come within the {MOST_S:g} s that one request waits")
        found: dict[Wanted, Found] = dict.fromkeys(wanted, late)
        room, names = self._most, list(wanted)
        with trio.move_on_after(MOST_S):
            for start in range(0, len(names), AT_ONCE):
                few = names[start : start + AT_ONCE]
                got = await self._few(few) if room >= 0 else {}
                for one in few:
                    # What comes behind the first that had no room has none either, whatever its size.
                    room -= wanted[one] * _size(got[one]) if room >= 0 else 0
                    found[one] = got[one] if room >= 0 else self._too_much()
        return found

    def _too_much(self) -> Lacking:
        return Lacking(f"what this request is filled with is longer than {self._most // 1024**2} MiB")

    async def _few(self, wanted: Sequence[Wanted]) -> dict[Wanted, Found]:
        got: dict[Wanted, Found] = {}

        async def get(one: Wanted) -> None:
            got[one] = await self._get(one)

        async with trio.open_nursery() as nursery:
            for one in wanted:
                nursery.start_soon(get, one)
        return got

    async def _key(self, one: Wanted) -> str:
        # In a thread: the hash of many megabytes is longer than other streams should stand still.
        return await trio.to_thread.run_sync(material.key_of, one)

    async def _kept(self, one: Wanted) -> Found | None:
        key = await self._key(one)
        return self._pictures.kept(key) if isinstance(one, ImageUrl) else self._texts.kept(key)

    async def _get(self, one: Wanted) -> Found:
        key = await self._key(one)
        if isinstance(one, ImageUrl):
            return await self._pictures.get(key, lambda: self._images.image(one.url))
        return await self._texts.get(key, lambda: self._extractor.text(one.data))


def _size(got: Found) -> int:
    if isinstance(got, Lacking):
        return 0
    return len(got.data) if isinstance(got, Image) else len(got)


def of(options: Options, log: Log) -> Materials | None:
    """None: nothing is wanted, whatever a request holds."""
    wants = options.pdf_to_text is not None or options.fetch_images
    return Materials(options, log) if wants else None


__all__ = ["Materials", "of"]
