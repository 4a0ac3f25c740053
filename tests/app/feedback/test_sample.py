"""The sample: a share of the keys, always the same ones."""

from __future__ import annotations

import pytest

from app.feedback.sample import Sample


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.5, 1.0])
def test_the_share_is_the_one_that_was_asked_for(share: float) -> None:
    """Over 100,000 users, within a third of a percent."""
    held = sum(Sample(share).holds_key(user, b"") for user in range(100_000))
    assert held / 100_000 == pytest.approx(share, abs=0.003)
    if share in (0.0, 1.0):
        assert held == share * 100_000


def test_a_larger_share_holds_the_keys_of_a_smaller() -> None:
    """Raising the share adds users and loses none."""
    small, large = Sample(0.05), Sample(0.1)
    held = [user for user in range(10_000) if small.holds_key(user, b"")]
    assert all(large.holds_key(user, b"") for user in held)


def test_one_key_has_one_fate() -> None:
    """Whatever its type; without a usable key the request's id decides."""
    sample = Sample(0.5)
    for user in range(200):
        fates = {sample.holds_key(form, b"") for form in (user, str(user), float(user))}
        assert len(fates) == 1
    for value in (None, [1], True, 1.5, {"a": 1}):
        assert sample.holds_key(value, b"r-1") == sample.holds(b"r-1")


def test_surrogates_are_no_error() -> None:
    """Text that is no UTF-8 has a fate too."""
    assert Sample(1.0).holds_key("\ud800", b"")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
def test_requests_are_chosen_evenly(share: float) -> None:
    """Ids as the service gives them, which differ in their last digits: the share, anywhere."""
    sample = Sample(share)
    for start in (1, 5_000_000):
        ids = (b"0123456789ab-%x" % number for number in range(start, start + 50_000))
        held = sum(map(sample.holds_request, ids))
        assert held / 50_000 == pytest.approx(share, abs=0.01 * share**0.5)
