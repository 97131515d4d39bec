"""Prompts that begin like one before: their first keys and values are still there, and not computed again."""

from collections.abc import Sequence
from itertools import count

import numpy as np

from .kv_cache import KVCache

Ids = np.ndarray[tuple[int], np.dtype[np.int64]]

# What fewer tokens cost is less than what finding and copying them does.
_WORTHWHILE = 16


class PrefixCache:
    """Knows what the positions of every slot were computed from, also after a request has left it.

    Ids are those of tokens; pictures and clips have ids of their own, see `soft_tokens.ids`. What counts of
    them is as many as the cache has positions.
    """

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache
        num_slots = len(cache.lengths)
        self._ids = np.zeros((num_slots, cache.max_context), dtype=np.int64)
        self._clock = count(1)
        self._last_used = [0] * num_slots

    def take(self, free: Sequence[int], ids: Ids) -> tuple[int, int]:
        """Returns one of the free slots, and how many of the prompt's first positions it has now.

        The last token of a prompt is never among them: somebody has to say what comes next.
        """
        shared = [self._num_shared(slot, ids[:-1]) for slot in range(len(self._last_used))]
        source = max(range(len(shared)), key=lambda slot: (shared[slot], slot in free))
        num_shared = shared[source] if shared[source] >= _WORTHWHILE else 0
        slot = source if self._goes_on(source, num_shared, free) else self._oldest(free)
        if num_shared and slot != source:
            self._cache.copy(source, slot, num_shared)
        self._cache.lengths[slot] = num_shared
        self._ids[slot, : len(ids)] = ids
        self._last_used[slot] = next(self._clock)
        return slot, num_shared

    def append(self, slot: int, token_id: int) -> None:
        """Says what the next position of a slot is computed from."""
        self._ids[slot, self._cache.lengths[slot]] = token_id
        self._last_used[slot] = next(self._clock)

    def _num_shared(self, slot: int, ids: Ids) -> int:
        length = min(len(ids), self._cache.lengths[slot])
        differs = self._ids[slot, :length] != ids[:length]
        return int(differs.argmax()) if differs.any() else length

    def _goes_on(self, source: int, num_shared: int, free: Sequence[int]) -> bool:
        """Whether the prompt goes on with what is in a free slot, and does not only begin alike."""
        return source in free and num_shared > 0 and 2 * num_shared >= self._cache.lengths[source]

    def _oldest(self, free: Sequence[int]) -> int:
        return min(free, key=lambda slot: (self._cache.lengths[slot] > 0, self._last_used[slot]))
