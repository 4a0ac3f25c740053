"""The layout of a vocabulary in Redis, for publishing and for reading.

The values of a slot are spread over small hashes, the buckets: field = canonical text of a
value, content = its table row. Small hashes are stored as one packed list, so a value costs
little more than its own bytes; one large hash for each slot costs several times as much.
A value's bucket is the CRC-32 of its text modulo the number of buckets, which follows from
the number of values.

Every bucket also holds a sentinel, a field that no value can have, with the bucket's own name.
An empty answer means that a value is unknown only where the sentinel came with it; and an
answer that belongs to another bucket is noticed.

Keys contain the vocabulary's hash, so what a key holds never changes. One hash, the register,
lists the vocabularies; a vocabulary is visible to services only once its entry there says that
it is complete.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

import msgspec

from app.errors import CtrError
from app.features.layout import RESERVED_ROWS, Slot
from app.features.spec import Categorical, FeatureSpec, MultiCategorical
from app.features.vocabulary import Integers, Texts, Vocabulary

LAYOUT_VERSION = 1
PREFIX = f"ctr:{LAYOUT_VERSION}"
REGISTER = f"{PREFIX}:vocabularies"
HASH_DIGITS = 32
"""Digits of the vocabulary's hash that its keys contain; the register has all 64."""
SENTINEL = b"\xff"
"""A field that no value can have: it is not UTF-8."""
BUCKET_VALUES = 80
"""Mean values of a bucket. Redis packs hashes of up to 128 fields by default; with this mean
about one bucket in a million has more."""
IN_USE_SECONDS = 300
"""Life of the mark that a service sets on its vocabulary; it is renewed ten times as often."""

Key = int | str
"""A canonical value: an integer of an integer field, text of a string field."""


class RegisterError(CtrError):
    """An entry of the register that this version cannot read."""


class Entry(msgspec.Struct, frozen=True):
    """A vocabulary in the register.

    ``buckets`` has the number of buckets of every published slot by its place in the layout;
    ``bundle`` is the version that it was published from, ``published`` when that began, and
    ``writer`` tells publishings apart.
    """

    hash: str
    state: Literal["publishing", "complete"]
    values: int
    buckets: dict[int, int]
    bundle: str
    published: str
    writer: str

    def names(self) -> Iterator[bytes]:
        """The keys of all its buckets."""
        for number, count in self.buckets.items():
            prefix = slot_prefix(self.hash, number)
            for bucket in range(count):
                yield b"%s%x" % (prefix, bucket)

    def encode(self) -> bytes:
        """The entry as the register holds it."""
        return msgspec.json.encode(self)

    @staticmethod
    def decode(raw: bytes) -> Entry:
        """Read an entry.

        Raises:
            RegisterError: it is malformed.
        """
        try:
            return _entry_decoder.decode(raw)
        except msgspec.MsgspecError as error:
            raise RegisterError(f"an entry of {REGISTER} cannot be read: {error}") from error


_entry_decoder = msgspec.json.Decoder(Entry)


def bucket_count(values: int) -> int:
    """The number of buckets of a slot with so many values; at least one, for its sentinel."""
    return max(1, -(-values // BUCKET_VALUES))


def text_of(key: Key) -> bytes:
    """The field under which a bucket holds a value."""
    return b"%d" % key if isinstance(key, int) else key.encode()


def slot_prefix(vocabulary_hash: str, number: int) -> bytes:
    """The prefix of the keys of a slot's buckets."""
    return f"{PREFIX}:{vocabulary_hash[:HASH_DIGITS]}:{number:x}:".encode()


def in_use(vocabulary_hash: str) -> str:
    """The key that services keep alive while they use a vocabulary."""
    return f"{PREFIX}:{vocabulary_hash[:HASH_DIGITS]}:in-use"


@dataclass(frozen=True, slots=True)
class SlotKeys:
    """The buckets of one slot of one vocabulary; ``number`` is its place in the layout."""

    number: int
    slot: Slot
    buckets: int
    prefix: bytes

    def of(self, text: bytes) -> int:
        """The bucket that holds a value's text."""
        return crc32(text) % self.buckets

    def name(self, bucket: int) -> bytes:
        """The Redis key of a bucket."""
        return b"%s%x" % (self.prefix, bucket)

    def sentinel(self, bucket: int) -> bytes:
        """The content of the bucket's sentinel."""
        return b"%x.%x" % (self.number, bucket)

    def row(self, content: bytes) -> int | None:
        """Read a table row; None if it is not a number or not a row of a value of this slot."""
        if not content.isdigit() or len(content) > 10:
            return None
        row = int(content)
        first = self.slot.first
        return row if first + RESERVED_ROWS <= row < first + self.slot.size else None


def slot_keys(vocabulary_hash: str, number: int, slot: Slot, values: int) -> SlotKeys:
    """Name the buckets of a slot that has so many values."""
    prefix = slot_prefix(vocabulary_hash, number)
    return SlotKeys(number, slot, bucket_count(values), prefix)


def published_slots(
    spec: FeatureSpec, vocabulary: Vocabulary, vocabulary_hash: str
) -> dict[str, SlotKeys]:
    """Return by name the slots whose values Redis holds: those of categorical fields.

    What numbers and times are turned into has few values; services read it from the bundle.
    """
    categorical = {
        field.name for field in spec.fields if isinstance(field, Categorical | MultiCategorical)
    }
    found = {}
    for number, slot in enumerate(vocabulary.layout.slots):
        part = vocabulary.slots[slot.name]
        if slot.shares is None and slot.name in categorical and isinstance(part, Integers | Texts):
            found[slot.name] = slot_keys(vocabulary_hash, number, slot, len(part.rows))
    return found
