"""The index of a large slot's texts: a few places to compare in place of a bisection of all.

Keys are spread over buckets by the first bits of the CRC-32 of their UTF-8, about as many buckets
as keys. A bucket names the places of its keys in ascending order, which is that of their bytes:
even keys that were made to share a bucket are found by bisection.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

INDEXED_VALUES = 2**16
"""Values from which on a slot has an index; fewer are in memory, or bisected quickly."""
HASH_BITS = 32


class TextIndex(NamedTuple):
    """Bucket b holds ``places[starts[b] : starts[b + 1]]``; ``starts`` has 2^n + 1 elements."""

    starts: NDArray[np.uint32]
    places: NDArray[np.uint32]

    @classmethod
    def of(cls, keys: Iterable[bytes], count: int) -> TextIndex:
        """Index so many keys by their place."""
        bits = count.bit_length() - 1
        hashes = np.fromiter(map(crc32, keys), np.uint32, count)
        buckets = hashes >> np.uint32(HASH_BITS - bits)
        starts = np.zeros(2**bits + 1, np.uint32)
        np.cumsum(np.bincount(buckets, minlength=2**bits), out=starts[1:])
        return cls(starts, np.argsort(buckets, kind="stable").astype(np.uint32))

    def fits(self, keys: int) -> bool:
        """Return whether the arrays have the sizes of an index of so many keys."""
        starts, buckets = self.starts, len(self.starts) - 1
        return (
            buckets > 0
            and buckets & (buckets - 1) == 0
            and buckets.bit_length() <= HASH_BITS
            and len(self.places) == keys == int(starts[-1])
            and int(starts[0]) == 0
        )

    @property
    def shift(self) -> int:
        """Number of a hash's last bits that do not decide the bucket."""
        return HASH_BITS + 1 - (len(self.starts) - 1).bit_length()
