"""95 % intervals of means over cases, by numpy; rows are what is compared, columns are cases.

A cell without a value is NaN. For each row over its n values, the first that applies:
  Wilson      the row is binary: every value is 0 or 1
  bootstrap   30 <= n <= 5,000: BCa with 2,000 resamples of cases, the same ones for all rows, from a
              fixed seed, so that equal results give equal intervals
  t           else: with fewer cases a bootstrap is too narrow, with more it gives the same
Rows whose values all lie in [0, 1] are cut to it. Where all values are equal the spread is unknown:
there is no interval, except Wilson's for a row of [0, 1] at one of its ends.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 2_000
SEED: Final = 20_240_411
FEW_CASES: Final = 30
MANY_CASES: Final = 5_000
_TAIL: Final = 0.5 + CONFIDENCE / 2
_Z: Final = float(special.ndtri(_TAIL))
_CHUNK: Final = 2_000_000
"""Most resampled cases in memory at once."""


def intervals(values: Floats, binary: Flags, unit: Flags) -> tuple[Floats, Floats]:
    """Low and high end for each row; NaN where there is none.

    Args:
        values: [row, case], NaN where a row has no value for the case.
        binary: Whether the row's values can only be 0 or 1.
        unit: Whether they can only lie in [0, 1].
    """
    n = np.count_nonzero(~np.isnan(values), axis=1)
    means = row_means(values)
    constant = _extreme(values, np.fmin) == _extreme(values, np.fmax)
    at_end = constant & unit & ((means == 0) | (means == 1))
    by_wilson = (binary | at_end) & (n > 0)
    by_bootstrap = ~by_wilson & ~constant & (n >= FEW_CASES) & (n <= MANY_CASES)
    by_t = ~by_wilson & ~by_bootstrap & ~constant & (n >= 2)
    low, high = np.full((2, len(values)), np.nan)
    low[by_wilson], high[by_wilson] = wilson(means[by_wilson], n[by_wilson])
    low[by_bootstrap], high[by_bootstrap] = bca(values[by_bootstrap])
    low[by_t], high[by_t] = student(values[by_t])
    return np.where(unit, np.maximum(low, 0), low), np.where(unit, np.minimum(high, 1), high)


def row_means(values: Floats) -> Floats:
    """The mean of each row's values, NaN where it has none."""
    with np.errstate(invalid="ignore"):
        sums: Floats = np.nansum(values, axis=1)
        return np.asarray(sums / np.count_nonzero(~np.isnan(values), axis=1))


def wilson(share: Floats, n: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Wilson's score interval of a share of n (Wilson 1927)."""
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * np.sqrt(share * (1 - share) / n + (_Z / (2 * n)) ** 2)
    return middle - half, middle + half


def student(values: Floats) -> tuple[Floats, Floats]:
    """Student's t interval of each row's mean."""
    n, means = np.count_nonzero(~np.isnan(values), axis=1), row_means(values)
    squares = np.nansum((values - means[:, None]) ** 2, axis=1)
    half = special.stdtrit(n - 1, _TAIL) * np.sqrt(squares / (n - 1) / n)
    return means - half, means + half


def bca(values: Floats) -> tuple[Floats, Floats]:
    """The bias-corrected and accelerated bootstrap interval of each row's mean (Efron 1987).

    For a mean the acceleration has a closed form: its jackknife values are linear in the values.
    """
    if not len(values):
        return np.empty(0), np.empty(0)
    values = values[:, ~np.isnan(values).all(axis=0)]
    means = row_means(values)
    resampled = np.sort(_resampled_means(values), axis=0)
    below = np.mean((resampled < means) + 0.5 * (resampled == means), axis=0)
    bias = special.ndtri(np.clip(below, 0.5 / RESAMPLES, 1 - 0.5 / RESAMPLES))
    spread = np.nan_to_num(values - means[:, None])
    skew = (spread**3).sum(axis=1) / (6 * (spread**2).sum(axis=1) ** 1.5)
    low, high = (
        _quantiles(resampled, special.ndtr(bias + (bias + z) / (1 - skew * (bias + z))))
        for z in (-_Z, _Z)
    )
    return low, high


def _resampled_means(values: Floats) -> Floats:
    """[resample, row]: means of cases drawn with replacement; each draw serves all rows."""
    present = (~np.isnan(values)).astype(np.float64).T
    filled = np.nan_to_num(values).T
    cases, rng = values.shape[1], np.random.default_rng(SEED)
    made, size = [], max(1, _CHUNK // cases)
    for start in range(0, RESAMPLES, size):
        draws = min(size, RESAMPLES - start)
        picked = rng.integers(0, cases, (draws, cases)) + np.arange(draws)[:, None] * cases
        weights = np.bincount(picked.ravel(), minlength=draws * cases).reshape(draws, cases)
        made.append((weights @ filled) / (weights @ present))
    return np.concatenate(made)


def _quantiles(ordered: Floats, shares: Floats) -> Floats:
    """The given quantile of each column, which is in order, by linear interpolation."""
    place = shares * (len(ordered) - 1)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, len(ordered) - 1)
    columns = np.arange(ordered.shape[1])
    lower, upper = ordered[below, columns], ordered[above, columns]
    return np.asarray(lower + (upper - lower) * (place - below))


def _extreme(values: Floats, pick: np.ufunc) -> Floats:
    """The least or the greatest value of each row (`np.fmin`, `np.fmax`), NaN where it has none."""
    return np.asarray(pick.reduce(values, axis=1, initial=np.nan))
