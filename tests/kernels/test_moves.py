"""Estimators of how tiers move: on a simulated Markov population, and against a published worked example."""

from __future__ import annotations

import numpy as np
import pytest

from transforms.kernels.moves import cohort, generator, lorenz, transition

STEP = np.array(
    [
        [0.90, 0.06, 0.03, 0.01],
        [0.08, 0.80, 0.10, 0.02],
        [0.02, 0.13, 0.75, 0.10],
        [0.00, 0.05, 0.20, 0.75],
    ]
)
"""The matrix that the simulated population moves by."""


def simulated(accounts, steps, seed):
    """Moves counted of a population that moves by `STEP`, begun evenly: (4, 4)."""
    rng = np.random.default_rng(seed)
    state = rng.integers(0, len(STEP), accounts)
    counts = np.zeros(STEP.shape, np.int64)
    for _ in range(steps):
        drawn = rng.random(accounts)[:, None] > STEP.cumsum(axis=1)[state]
        after = np.minimum(drawn.sum(axis=1), len(STEP) - 1)
        np.add.at(counts, (state, after), 1)
        state = after
    return counts


@pytest.mark.parametrize("seed", range(5))
def test_cohort_returns_the_matrix_that_a_population_moves_by(seed):
    """Each cell within 4.5 standard errors, sqrt(p (1 - p) / n): wrong of a right estimator once in 10,000 such tests."""
    counts = simulated(accounts=5000, steps=12, seed=seed)
    error = np.sqrt(STEP * (1 - STEP) / counts.sum(axis=1, keepdims=True))
    assert (np.abs(cohort(counts) - STEP) <= 4.5 * error).all()
    assert np.abs(cohort(counts).sum(axis=1) - 1).max() < 1e-12
    assert error.max() < 0.005  # so that the interval says something


def test_the_interval_is_narrow_enough_to_tell_another_matrix():
    counts = simulated(accounts=5000, steps=12, seed=1)
    other = STEP + np.array([[-0.02, 0.02, 0, 0], *[[0] * 4] * 3])
    error = np.sqrt(other * (1 - other) / counts.sum(axis=1, keepdims=True))
    assert (np.abs(cohort(counts) - other) > 4.5 * error).any()


def test_the_duration_estimator_returns_the_intensities_that_a_population_moves_by():
    """Days of a year, each with the chances of a 365th of the intensities: within 4.5 standard errors, rate / sqrt(moves)."""
    yearly = np.array([[-0.8, 0.6, 0.2], [1.5, -2.0, 0.5], [0.1, 0.9, -1.0]])
    rng = np.random.default_rng(3)
    state = rng.integers(0, 3, 4000)
    daily, moves, spent = transition(yearly, 1 / 365), np.zeros((3, 3), np.int64), np.zeros(3, np.int64)
    for _ in range(365):
        spent += np.bincount(state, minlength=3)
        after = np.minimum((rng.random(4000)[:, None] > daily.cumsum(axis=1)[state]).sum(axis=1), 2)
        np.add.at(moves, (state, after), 1)
        state = after
    found = generator(moves, spent)
    away = ~np.eye(3, dtype=bool)
    off = np.abs(found - yearly)[away]
    # A day is not a moment: chances of two moves in one day shift the rates by less than their square over 365.
    assert (off <= 4.5 * found[away] / np.sqrt(moves[away]) + 4 / 365).all()
    assert np.abs(found.sum(axis=1)).max() < 1e-12


# C. H. Jackson, Multi-state models for panel data: the msm package for R, Journal of Statistical Software 38(8), 2011, and the
# manual page of `msm`: heart transplants of Papworth Hospital. `statetable.msm` counts moves; `crudeinits.msm` is the duration
# estimator, of moves the model allows; account-days are summed from the package's data set `cav`, whose times are 365ths of a year.
MOVES = np.array([[1367, 204, 44, 148], [46, 134, 54, 48], [4, 13, 107, 55], [0, 0, 0, 0]])
ALLOWED = np.array([[0, 1, 0, 1], [1, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]])
DAYS = np.array([1_095_172, 143_728, 96_671, 0])
CRUDE = np.array(
    [
        [-0.1173149, 0.06798932, 0.0000000, 0.04932559],
        [0.1168179, -0.37584883, 0.1371340, 0.12189692],
        [0.0000000, 0.04908401, -0.2567471, 0.20766310],
        [0.0000000, 0.00000000, 0.0000000, 0.00000000],
    ]
)
FITTED = np.array(
    [
        [-0.17037, 0.12787, 0, 0.04250],
        [0.22512, -0.60794, 0.34261, 0.04021],
        [0, 0.13062, -0.43710, 0.30648],
        [0, 0, 0, 0],
    ]
)
"""`qmatrix.msm`: intensities that the package fits, to five places."""
AFTER_TEN_YEARS = np.array(
    [
        [0.30940656, 0.09750021, 0.08787255, 0.5052207],
        [0.17165172, 0.06552639, 0.07794394, 0.6848780],
        [0.05898093, 0.02971653, 0.04665485, 0.8646477],
        [0, 0, 0, 1],
    ]
)
"""`pmatrix.msm(cav.msm, t = 10)`."""


def test_the_duration_estimator_agrees_with_a_published_example():
    assert np.abs(generator(MOVES * ALLOWED, DAYS) - CRUDE).max() < 5e-8


def test_the_transition_of_ten_years_agrees_with_a_published_example():
    """Within what the five places leave open of the intensities that are printed."""
    assert np.abs(transition(FITTED, 10) - AFTER_TEN_YEARS).max() < 2e-5
    assert np.abs(transition(FITTED, 10).sum(axis=1) - 1).max() < 1e-4


def test_a_state_that_nobody_was_in_is_never_left():
    assert cohort(np.array([[3, 1], [0, 0]])).tolist() == [[0.75, 0.25], [0.0, 1.0]]
    assert generator(np.array([[0, 1], [0, 0]]), np.array([365, 0])).tolist() == [[-1.0, 1.0], [0.0, 0.0]]
    assert transition(np.zeros((2, 2)), 3).tolist() == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("n", [1, 2, 99, 100, 101, 1234])
def test_the_curve_is_the_sum_of_the_largest(n):
    amounts = np.random.default_rng(n).integers(1, 1000, n)
    customers, sums = lorenz(amounts)
    ordered = sorted(amounts.tolist(), reverse=True)
    assert customers == [-(-n * percent // 100) for percent in range(1, 101)]
    assert sums == [sum(ordered[:count]) for count in customers]
    assert lorenz(np.zeros(0, np.int64)) == ([], [])
