"""Shapley values: the axioms that define them, on games of any size."""

from __future__ import annotations

from itertools import permutations
from math import factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.explain.shapley import (
    MOST_EXACT,
    ORDERS,
    coalition_count,
    coalitions,
    is_exact,
    shares,
)

SMALL = st.integers(1, 6)
ANY = st.integers(1, MOST_EXACT + 8)
SEED = st.integers(0, 2**32 - 1)


def brute_force(worth: dict[frozenset[int], float], players: int) -> np.ndarray:
    """The definition: the mean of what a player adds, over all orders."""
    value = np.zeros(players)
    for order in permutations(range(players)):
        there: frozenset[int] = frozenset()
        for player in order:
            value[player] += worth[there | {player}] - worth[there]
            there |= {player}
    return value / factorial(players)


def game(seed: int, players: int) -> tuple[np.ndarray, np.ndarray]:
    """A random game of all pairs, and its worth: what it gives to each coalition."""
    joint = np.random.default_rng(seed).normal(size=(players, players))
    there = coalitions(players).astype(float)
    return joint, np.einsum("mi,ij,mj->m", there, joint, there)


@given(SMALL, SEED)
def test_values_are_those_of_all_orders(players: int, seed: int) -> None:
    """Any game at all, by the definition."""
    worth = np.random.default_rng(seed).normal(size=2**players)
    present = coalitions(players)
    by_set = {
        frozenset(np.flatnonzero(row).tolist()): float(value)
        for row, value in zip(present, worth, strict=True)
    }
    found = shares(players, worth)
    np.testing.assert_allclose(found.value, brute_force(by_set, players), atol=1e-12)
    assert not found.error.any()


@given(ANY, SEED)
def test_values_add_up(players: int, seed: int) -> None:
    """Efficiency: to all that there is to share, exact or sampled."""
    worth = np.random.default_rng(seed).normal(size=coalition_count(players))
    assert shares(players, worth).value.sum() == pytest.approx(worth[-1] - worth[0], abs=1e-9)


@given(st.integers(2, MOST_EXACT + 8), SEED)
def test_a_player_that_adds_nothing_gets_nothing(players: int, seed: int) -> None:
    """Dummy: nor has it an error, where values are sampled."""
    dummy = seed % players
    joint, _ = game(seed, players)
    joint[dummy] = joint[:, dummy] = 0
    there = coalitions(players).astype(float)
    found = shares(players, np.einsum("mi,ij,mj->m", there, joint, there))
    assert found.value[dummy] == pytest.approx(0, abs=1e-12)
    assert found.error[dummy] == pytest.approx(0, abs=1e-12)


@given(st.integers(2, 8), SEED)
def test_players_alike_get_the_same(players: int, seed: int) -> None:
    """Symmetry."""
    joint, _ = game(seed, players)
    joint[0], joint[0, 0] = joint[1], joint[1, 1]
    joint[:, 0] = joint[:, 1]
    joint[0, 1] = joint[1, 0] = joint[0, 0] = joint[1, 1]
    there = coalitions(players).astype(float)
    found = shares(players, np.einsum("mi,ij,mj->m", there, joint, there))
    assert found.value[0] == pytest.approx(found.value[1], abs=1e-10)


@given(st.integers(MOST_EXACT + 1, MOST_EXACT + 12), SEED)
def test_sampled_values_of_pairs_are_exact(players: int, seed: int) -> None:
    """An order and its reverse have each pair in both orders: the half of it for each player."""
    joint, worth = game(seed, players)
    found = shares(players, worth)
    expected = np.diag(joint) + 0.5 * (joint + joint.T - 2 * np.diag(np.diag(joint))).sum(1)
    np.testing.assert_allclose(found.value, expected, atol=1e-9)
    np.testing.assert_allclose(found.error, 0, atol=1e-9)


def test_the_error_tells_how_far_sampled_values_are() -> None:
    """A game of threes, whose values are known: some two thirds lie within one error."""
    players, within = 20, []
    present = coalitions(players).astype(float)
    for seed in range(40):
        weights = np.random.default_rng(seed).normal(size=(players // 4, 3))
        threes = np.random.default_rng(seed).permutation(players)[: 3 * len(weights)].reshape(-1, 3)
        worth = (present[:, threes].prod(2) * weights[:, 0]).sum(1)
        expected = np.zeros(players)
        for three, weight in zip(threes, weights[:, 0], strict=True):
            expected[three] += weight / 3
        found = shares(players, worth)
        assert (found.error[threes.ravel()] > 0).all()
        within.append(np.abs(found.value - expected)[threes] <= 2 * found.error[threes])
    assert 0.85 <= float(np.mean(within)) < 1


@pytest.mark.parametrize("players", [0, 1, 2, MOST_EXACT, MOST_EXACT + 1, 39])
def test_coalitions_are_counted_before(players: int) -> None:
    """Their number is what admission is told; the first is empty, the last everybody."""
    found = coalitions(players)
    assert len(found) == coalition_count(players)
    assert not found[0].any()
    assert found[-1].all()
    if not is_exact(players):
        assert len(found) == 2 + 2 * ORDERS * (players - 1)
    assert players != 39 or len(found) == 2_434


def test_the_same_orders_are_drawn_each_time() -> None:
    """So that a row is explained in the same way twice, and two rows in comparable ways."""
    np.testing.assert_array_equal(coalitions(20), coalitions(20))
