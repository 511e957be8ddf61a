"""How tiers move, as matrices: what was counted of a population of accounts, and what follows for one of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def cohort(counts: Ints) -> Floats:
    """Transition probabilities by the cohort estimator: of the accounts in i at first, those in j at the end.

    counts: (n, n) accounts by state at first and at the end. Returns (n, n); a state that nobody was in goes to itself.

    >>> cohort(np.array([[9, 1], [0, 0]])).tolist()
    [[0.9, 0.1], [0.0, 1.0]]
    """
    total = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    return np.where(total > 0, shares, np.eye(len(counts)))


def generator(migrations: Ints, exposure: Ints, days_a_year: int = 365) -> Floats:
    """Transition intensities a year by the duration estimator: migrations from i to j over the time spent in i.

    migrations: (n, n) moves from i to j, whatever stands on the diagonal; exposure: (n,) account-days in i. Returns
    (n, n), rows adding up to 0; a state without exposure is never left. Maximum likelihood where intensities are constant:
    Lando and Skødeberg, Analyzing rating transitions and rating drift with continuous observations, 2002.

    >>> generator(np.array([[0, 2], [0, 0]]), np.array([365, 730])).tolist()
    [[-2.0, 2.0], [0.0, 0.0]]
    """
    moves = np.where(np.eye(len(migrations), dtype=bool), 0, migrations)
    spent = exposure[:, None]
    rates: Floats = np.divide(moves * days_a_year, spent, out=np.zeros(moves.shape), where=spent > 0)
    return rates - np.diag(rates.sum(axis=1))


def transition(intensities: Floats, years: float) -> Floats:
    """Probabilities of being in j after some years, from i: the matrix exponential of intensities a year, (n, n)."""
    from scipy.linalg import expm

    found: Floats = expm(intensities * years)
    return found


def lorenz(amounts: Ints) -> tuple[list[int], list[int]]:
    """How many accounts the first 1 to 100 percent are, rounded up, largest first; and the sums of their amounts.

    amounts: (n,) positive, in any order, adding up to less than 2^63. Both empty where n is 0.

    >>> customers, sums = lorenz(np.array([1, 5, 2]))
    >>> customers[33], sums[33], sums[-1]
    (2, 7, 8)
    """
    n = len(amounts)
    if not n:
        return [], []
    customers = (n * np.arange(1, 101, dtype=np.int64) + 99) // 100
    running = np.cumsum(np.sort(amounts)[::-1])
    return customers.tolist(), running[customers - 1].tolist()
