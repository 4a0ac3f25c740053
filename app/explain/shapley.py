"""Shapley values of games over coalitions (Shapley 1953, "A value for n-person games").

A game gives a number to each coalition of G players. A player's Shapley value is the mean of what
it adds to those before it, over all orders of the players. The values add up to the difference
between the coalition of all and the empty one.
"""

from __future__ import annotations

from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST_EXACT = 12
"""Players up to which all coalitions are looked at: 4,096."""
ORDERS = 32
"""Pairs of orders that are drawn where players are more."""
_SEED = 20_240_611

Coalitions = NDArray[np.bool_]
"""[M, G]: the players of each coalition."""
Numbers = NDArray[np.float64]


class Shares(NamedTuple):
    """Each player's value [G], and its standard error, zero where the value is exact."""

    value: Numbers
    error: Numbers


def is_exact(players: int) -> bool:
    """Tell whether all coalitions of so many players are looked at."""
    return players <= MOST_EXACT


def coalition_count(players: int) -> int:
    """Return the number of coalitions that :func:`coalitions` gives."""
    return 2**players if is_exact(players) else 2 + 2 * ORDERS * (players - 1)


def coalitions(players: int) -> Coalitions:
    """Return the coalitions by whose numbers :func:`shares` are told; all are last, none first.

    Up to ``MOST_EXACT`` players those are all; the last players come and go first, so that
    coalitions next to each other have the first players in common. With more players they are the
    beginnings of ``ORDERS`` orders and of the same orders backwards, drawn from a fixed seed.
    """
    if is_exact(players):
        number = np.arange(2**players)[:, None]
        found: Coalitions = number >> np.arange(players)[::-1] & 1 == 1
        return found
    rank = np.argsort(_orders(players), axis=1)
    sizes = np.arange(1, players)[None, :, None]
    beginnings = (rank[:, None, :] < sizes).reshape(-1, players)
    none, every = np.zeros((1, players), np.bool_), np.ones((1, players), np.bool_)
    return np.concatenate([none, beginnings, every])


def shares(players: int, worth: Numbers) -> Shares:
    """Return the Shapley values of a game that is ``worth`` [M] for the :func:`coalitions`."""
    return _exact(players, worth) if is_exact(players) else _sampled(players, worth)


def _exact(players: int, worth: Numbers) -> Shares:
    # phi_i = sum over S without i of |S|! (G - |S| - 1)! / G! (v(S + i) - v(S)).
    weights = np.array([1 / (players * comb(players - 1, k)) for k in range(players)])
    by_player = worth.reshape((2,) * players)
    sizes = np.indices((2,) * (players - 1)).sum(0) if players else np.zeros(0)
    weight = weights[sizes] if players else np.zeros(0)
    value = np.array(
        [
            float((weight * (by_player.take(1, place) - by_player.take(0, place))).sum())
            for place in range(players)
        ]
    )
    return Shares(value, np.zeros(players))


def _sampled(players: int, worth: Numbers) -> Shares:
    """Average over orders (Castro et al. 2009) and their reverses (Mitchell et al. 2022).

    What each order gives adds up to the whole, and so do the means. An order and its reverse are
    one draw: the standard error is that of their means.
    """
    orders = _orders(players)
    beginnings = worth[1:-1].reshape(len(orders), players - 1)
    ends = np.broadcast_to(worth[[0, -1]], (len(orders), 2))
    steps = np.diff(np.concatenate([ends[:, :1], beginnings, ends[:, 1:]], axis=1), axis=1)
    added = np.empty_like(steps)
    np.put_along_axis(added, orders, steps, axis=1)
    drawn = added.reshape(2, ORDERS, players).mean(0)
    return Shares(drawn.mean(0), drawn.std(0, ddof=1) / np.sqrt(ORDERS))


def _orders(players: int) -> NDArray[np.int64]:
    """Return the orders [2 * ORDERS, G], the second half of them those of the first backwards."""
    draw = np.random.default_rng(_SEED)
    forward = np.array([draw.permutation(players) for _ in range(ORDERS)])
    return np.concatenate([forward, forward[:, ::-1]])
