"""Exact integer arithmetic on columns where int64 alone would overflow.

Energies below 2^44 Wh an account and day are counted (the rule `day_limit` of VEE); a window of 365 of them stays below 2^53.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Int = npt.NDArray[np.int64]
DAY_LIMIT_WH = 1 << 44
DAY_LIMIT_W = 1 << 43
_SPLIT = 24
_LOW = (1 << _SPLIT) - 1
_INT64_MAX = (1 << 63) - 1


def ppm(numerator: Int, denominator: Int) -> Int:
    """`numerator * 1_000_000 // denominator`, rounded down, without overflow.

    Long division with the digit base 1,000. Both (n,) int64; 0 < denominator < 2^53, |quotient| < 2^43.

    >>> ppm(np.array([1, -1, 2**52]), np.array([3, 3, 2**52])).tolist()
    [333333, -333334, 1000000]
    """
    whole, rest = np.divmod(numerator, denominator)
    first, rest = np.divmod(rest * 1000, denominator)
    result: Int = whole * 1_000_000 + first * 1000 + rest * 1000 // denominator
    return result


def ratio(amount: Int, times: int, whole: Int, limit: int) -> Int:
    """`min(amount * times // whole, limit)`, exact also where the product passes int64.

    amount: (n,) from 0 up; whole: (n,) above 0.

    >>> ratio(np.array([2**62, 2**62, 5]), 10**6, np.array([2**62, 1, 3]), 10**12).tolist()
    [1000000, 1000000000000, 1666666]
    """
    fits = whole <= _INT64_MAX // times
    large = np.flatnonzero(~fits)
    quotient, rest = np.divmod(amount, whole)
    part = np.where(fits, rest, 0) * times // whole
    if len(large):  # Python's own integers: seldom, a very large customer
        part[large] = rest[large].astype(object) * times // whole[large].astype(object)
    return np.minimum(np.minimum(quotient, limit // times + 1) * times + part, limit)


def square_parts(x: Int) -> tuple[Int, Int, Int]:
    """`x*x` as `hh * 2^48 + 2 * hl * 2^24 + ll`; the parts of up to 365 values can be summed in int64. x: 0 .. 2^44."""
    high, low = x >> _SPLIT, x & _LOW
    return high * high, high * low, low * low


def variation_ppm(n: Int, total: Int, hh: Int, hl: Int, ll: Int) -> Int:
    """Coefficient of variation in ppm: `isqrt((n*sum(x*x) - total^2) * 10^12 // total^2)`.

    n, total and the summed square parts are (k,) int64; total > 0. The variance term is formed exactly in
    limbs of 24 bits; its root is estimated in floats, and wherever the estimate is so close to a whole number that
    rounding could decide, the row is computed in Python integers.
    """
    high, low = total >> _SPLIT, total & _LOW
    a = n * hh - high * high
    b = 2 * (n * hl - high * low)
    c = n * ll - low * low
    b, c = b + (c >> _SPLIT), c & _LOW
    a, b = a + (b >> _SPLIT), b & _LOW
    variance = a.astype(np.float64) * 2.0**48 + ((b << _SPLIT) | c).astype(np.float64)
    estimate = np.sqrt(variance) * 1e6 / total.astype(np.float64)
    result = np.floor(estimate).astype(np.int64)
    close = np.abs(estimate - np.rint(estimate)) < np.maximum(estimate, 1.0) * 2.0**-44
    zero = variance == 0.0
    result[zero] = 0
    for i in np.flatnonzero(close & ~zero):
        exact = (int(a[i]) << 48) + (int(b[i]) << 24) + int(c[i])
        result[i] = math.isqrt(exact * 10**12 // int(total[i]) ** 2)
    return result


def segment_sums(values: Int, segment: npt.NDArray[np.int32], n: int) -> Int:
    """Sum of `values` per segment number. Both (k,), `segment` ascending, in 0 .. n-1. Returns (n,) int64."""
    out = np.zeros(n, np.int64)
    if len(values):
        starts = np.flatnonzero(np.r_[True, segment[1:] != segment[:-1]])
        out[segment[starts]] = np.add.reduceat(values, starts)
    return out
