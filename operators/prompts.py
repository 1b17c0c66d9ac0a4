"""Which consent prompts may be shown to this person now?

A prompt is a content that asks for a purpose (`asks_consent`). It may be shown, also to people who
have consented to nothing, while its purpose is neither granted nor lately refused, and no more
often than its caps allow. State: by prompt the times it was decided on; nothing else of the person,
so it is kept like a statement: whoever refuses everything must not be asked at each request.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from operators.consent import BY_GPC
from operators.contents import Contents, Flags
from operators.profile import Profile
from schemas.catalogue import Content
from schemas.time import DAY

Caps = tuple[tuple[int, int], ...]
"""(at most so often, within so many ms)."""

ANSWERED: Final = "answered"
"""The rejection where the purpose is granted, or was refused lately."""
ASKED_OFTEN: Final = "asked_often"
"""The rejection where a cap of the prompt is reached."""
DEFAULT_CAPS: Final[Caps] = ((3, 30 * DAY),)
"""For prompts without caps of their own."""
MOST_PROMPTS: Final = 16
MOST_TIMES: Final = 32
"""A cap of more counts as one of so many."""


class Prompts:
    """The prompts of one catalogue."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._caps: dict[str, Caps] = {
            content_id: tuple((min(cap.max, MOST_TIMES), cap.within) for cap in content.caps)
            or DEFAULT_CAPS
            for content_id, content in contents.by_id.items()
            if content.asks_consent is not None
        }

    def closed(self, profile: Profile, now_ms: int) -> list[tuple[str, Flags]]:
        """(rejection, the contents that it leaves) of the prompts that may not be shown now."""
        found: dict[str, Flags] = {}
        for content_id, caps in self._caps.items():
            why = self._why_closed(profile, self._contents.by_id[content_id], caps, now_ms)
            if why is not None:
                left = found.setdefault(why, np.ones(len(self._contents.ids), np.bool_))
                left[self._contents.index[content_id]] = False
        return list(found.items())

    def _why_closed(
        self, profile: Profile, content: Content, caps: Caps, now_ms: int
    ) -> str | None:
        known = profile.consent.get(content.asks_consent or "")
        if known is not None:
            granted, at_ms, by = known
            # The signal stands for as long as it is sent: then there is nothing to ask.
            standing = by == BY_GPC and profile.gpc_ms
            if granted or standing or now_ms < at_ms + content.ask_again_after:
                return ANSWERED
        times = profile.prompted.get(content.content_id, ())
        if any(len(times) >= most and times[-most] > now_ms - within for most, within in caps):
            return ASKED_OFTEN
        return None

    def book(self, profile: Profile, content_ids: Iterable[str], now_ms: int) -> bool:
        """Count the prompts among the contents of a decision; True where there were any.

        The newest 32 times of at most 16 prompts are kept: beyond that the stalest gives way, one
        that the catalogue has no more first.
        """
        asked = [content_id for content_id in content_ids if content_id in self._caps]
        prompted = profile.prompted
        for content_id in asked:
            prompted[content_id] = sorted([*prompted.get(content_id, ()), now_ms])[-MOST_TIMES:]
        while len(prompted) > MOST_PROMPTS:
            del prompted[min(prompted, key=lambda c: (c in self._caps, prompted[c][-1], c))]
        return bool(asked)
