"""What parsing one column gives: values, and for each row the fault that kept it from having one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.reasons import FAULTS


class Parsed(NamedTuple):
    """One column, parsed.

    values: (n,) of the schema column's type; null where the source is empty or at fault.
    faults: (n,) uint8, numbers of `schemas.reasons.FAULTS`; 0 where there is none.
    at: (n,) timestamp in UTC, the moment that a day was told with, where that is asked for and it was told with one.
    """

    values: pa.Array
    faults: NDArray[np.uint8]
    at: pa.Array | None = None


Mask = NDArray[np.bool_]


def no_faults(rows: int) -> NDArray[np.uint8]:
    """(rows,) of 0."""
    return np.zeros(rows, np.uint8)


def blame(faults: NDArray[np.uint8], where: Mask, reason: str) -> None:
    """Write `reason` into `faults`, in place, where the mask holds and no fault stands yet."""
    faults[where & (faults == 0)] = FAULTS[reason]


def mask_of(condition: pa.Array) -> Mask:
    """A boolean Arrow array as a NumPy mask; null is False."""
    return np.asarray(condition.fill_null(False).to_numpy(zero_copy_only=False), dtype=np.bool_)


def build(values: NDArray[np.generic], null: Mask, type_: pa.DataType) -> pa.Array:
    """An Arrow array from NumPy values and the mask of its nulls; nothing passes through float."""
    return pa.array(values, type_, mask=null)
