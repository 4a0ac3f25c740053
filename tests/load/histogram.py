"""Counts of durations with a stated relative precision, as HDR histograms keep them.

Durations are whole microseconds. Below 2,048 each has a bucket of its own; above, every power of
two is cut into 1,024 equal buckets. A figure read back is therefore at most one part in 1,024
above the true one (three significant digits), from a microsecond to days, in memory that grows
with the number of different buckets only.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

SUB_BITS = 11
PRECISION = 2.0 ** (1 - SUB_BITS)
"""Largest relative error of a percentile."""
TICKS_PER_HALF = 5


class Histogram:
    """Durations in microseconds; those of several processes can be merged without loss."""

    __slots__ = ("_buckets", "_squares", "_sum", "count", "largest", "smallest")

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self._sum = 0
        self._squares = 0
        self.count = 0
        self.smallest = 0
        self.largest = 0

    def record(self, value: int) -> None:
        """Count one duration; a negative one counts as 0."""
        value = max(value, 0)
        shift = max(value.bit_length() - SUB_BITS, 0)
        self._buckets[(shift << SUB_BITS) | (value >> shift)] += 1
        self._sum += value
        self._squares += value * value
        self.smallest = min(self.smallest, value) if self.count else value
        self.largest = max(self.largest, value)
        self.count += 1

    def merge(self, other: Histogram) -> None:
        """Add what another histogram has counted."""
        if not other.count:
            return
        self.smallest = min(self.smallest, other.smallest) if self.count else other.smallest
        self.largest = max(self.largest, other.largest)
        self._buckets.update(other._buckets)
        self._sum += other._sum
        self._squares += other._squares
        self.count += other.count

    @property
    def mean(self) -> float:
        """The exact mean; 0 where nothing was counted."""
        return self._sum / self.count if self.count else 0.0

    @property
    def deviation(self) -> float:
        """The exact standard deviation."""
        if not self.count:
            return 0.0
        # In whole numbers: the difference of two large floats would lose it.
        return math.sqrt(self.count * self._squares - self._sum**2) / self.count

    def percentile(self, percent: float, lost: int = 0) -> float:
        """The smallest duration that at least ``percent`` of all stay within.

        ``lost`` more are taken as endless: where the percentile falls among them, or nothing
        was counted, the answer is infinity. Otherwise it is never below the true one, at most
        :data:`PRECISION` above it, and never above the largest counted.
        """
        # repr gives the number that was written: 99.9, not the float a little below it.
        share = Fraction(repr(float(percent))) / 100
        rank = max(math.ceil(share * (self.count + lost)), 1)
        if rank > self.count:
            return math.inf
        for upto, seen in self._steps():
            if seen >= rank:
                return upto
        raise AssertionError("the buckets hold fewer than were counted")

    def _steps(self) -> Iterator[tuple[int, int]]:
        """Yield each bucket's largest duration and how many are not above it, ascending."""
        seen = 0
        for index in sorted(self._buckets):
            shift, place = index >> SUB_BITS, index & ((1 << SUB_BITS) - 1)
            seen += self._buckets[index]
            yield min(((place + 1) << shift) - 1, self.largest), seen

    def distribution(self) -> str:
        """The percentile distribution in the text form of HdrHistogram, in milliseconds.

        Its plotters read it. Steps get finer toward 100 %: five for every halving of what is
        left.
        """
        lines = [
            f"{'Value':>12} {'Percentile':>14} {'TotalCount':>10} {'1/(1-Percentile)':>14}",
            "",
        ]
        percent = 0.0
        for upto, seen in self._steps():
            reached = 100.0 * seen / self.count
            if reached < percent and seen < self.count:
                continue
            rest = "" if seen == self.count else f" {self.count / (self.count - seen):14.2f}"
            lines.append(f"{upto / 1000:12.3f} {reached / 100:2.12f} {seen:10d}{rest}")
            while percent <= reached < 100.0:
                halvings = math.floor(math.log2(100.0 / (100.0 - percent))) + 1
                percent += 100.0 / (TICKS_PER_HALF * 2**halvings)
        mean, deviation = self.mean / 1000, self.deviation / 1000
        lines += [
            f"#[Mean    = {mean:12.3f}, StdDeviation   = {deviation:12.3f}]",
            f"#[Max     = {self.largest / 1000:12.3f}, Total count    = {self.count:12d}]",
            f"#[Buckets = {self._powers:12d}, SubBuckets     = {1 << SUB_BITS:12d}]",
        ]
        return "\n".join(lines) + "\n"

    @property
    def _powers(self) -> int:
        return max(self.largest.bit_length() - SUB_BITS, 0) + 1
