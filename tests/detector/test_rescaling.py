"""Maps of columns onto another scale: what they reach, that they rise, bits that do not change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from detector import Rescaling

DRAW = np.random.default_rng(20260101)
ROWS = DRAW.normal(size=(4_000, 3)).astype(np.float32)
WANTED = np.stack([ROWS[:, 0] ** 3, ROWS[:, 1], np.exp(ROWS[:, 2])], axis=1).astype(np.float32)


def test_the_maps_give_what_was_wanted() -> None:
    mapped = Rescaling.fit(ROWS, WANTED)(ROWS)

    inside = (np.abs(ROWS) < 2).all(axis=1)  # where the sample is dense
    np.testing.assert_allclose(mapped[inside], WANTED[inside], atol=0.02)


@given(arrays.arrays(np.float32, (20, 3), elements=st.floats(-1e6, 1e6, width=32)))
def test_larger_values_never_become_smaller_ones(rows: np.ndarray) -> None:
    mapped = Rescaling.fit(ROWS, WANTED)(np.sort(rows, axis=0))

    assert (np.diff(mapped, axis=0) >= 0).all()


def test_beyond_the_sample_and_beyond_the_grid_values_go_on_rising_one_for_one() -> None:
    far = np.array([[6.0], [7.0], [30.0], [31.0]], np.float32).repeat(3, axis=1)

    mapped = Rescaling.fit(ROWS, WANTED)(far)

    np.testing.assert_allclose(mapped[1] - mapped[0], 1.0, atol=1e-3)
    np.testing.assert_allclose(mapped[3] - mapped[2], 1.0, atol=1e-3)


def test_values_that_are_not_known_teach_nothing() -> None:
    rows, wanted = ROWS.copy(), WANTED.copy()
    rows[:1_000], wanted[:1_000] = 0.0, 0.0  # missing: 0 on either scale
    known = np.ones(rows.shape, np.bool_)
    known[:1_000] = False

    assert (Rescaling.fit(rows, wanted, known).grid == Rescaling.fit(ROWS[1_000:], WANTED[1_000:]).grid).all()
    assert (Rescaling.fit(rows, wanted, known & False).grid == Rescaling.identity(3).grid).all()


def test_the_identity_leaves_everything_as_it_is() -> None:
    rows = np.concatenate([ROWS, 100 * ROWS])

    np.testing.assert_allclose(Rescaling.identity(3)(rows), rows, atol=1e-5)


def test_a_grid_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="damaged"):
        Rescaling(np.zeros((3, 7)))
