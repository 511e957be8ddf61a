"""What the reference says of a meter's runs."""

from __future__ import annotations

import numpy as np

from schemas.inbound import REGISTERS
from transforms.kernels.reference import NEVER
from transforms.kernels.terms import NO_INDEX, Terms


def test_a_removal_index_without_a_day_of_removal_says_nothing() -> None:
    """Two meters with a removal index each; only the second is told to be removed."""
    two = np.arange(2)
    given = np.full((2, len(REGISTERS)), 7)
    terms = Terms.of(
        two, np.array([10, 10]), np.array([NEVER, 20]), two, two >= 0, two >= 0, two + 1, two, given, given
    )
    assert (terms.closing[0] == NO_INDEX).all()
    assert (terms.closing[1] == 7).all()
