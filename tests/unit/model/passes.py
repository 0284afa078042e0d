"""Two forward passes in float32 that sum in another order."""

import numpy as np

# As a share of the largest value: sixty layers of sums of a thousand terms, whose roundings of 2**-24 add up like a
# random walk (Higham and Mary 2019, doi 10.1137/18M1226312).
ROUNDING = 60 * 1000**0.5 * 2**-24


def assert_same_pass(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING * np.abs(expected).max())
