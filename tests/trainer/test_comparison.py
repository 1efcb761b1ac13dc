"""The scale on which records are compared: chosen by the data, without labels, and the same each time."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from detector import Encoder, Rescaling, records_of_matrix, stream_of_matrix
from trainer.comparison import choose_scale

DRAW = np.random.default_rng(20260101)
_BEGINNING = DRAW.bit_generator.state


@pytest.fixture(autouse=True)
def _every_test_draws_from_the_beginning() -> None:
    DRAW.bit_generator.state = _BEGINNING


def chosen(matrix: NDArray[np.float64]) -> tuple[str, dict[str, float]]:
    """Which scale is chosen for a matrix, by the shape of its maps, and what spoke for it."""
    stream = stream_of_matrix(matrix.shape[1])
    records = records_of_matrix(stream, matrix)
    encoder = Encoder.fit(stream, records)
    rescaling, told = choose_scale(stream, encoder, records, seed=0)
    encoded = encoder.encode(records)
    by_name = {name: Encoder.fit(stream, records, share).encode(records) for name, share in SHARES.items()}
    distance = {name: float(np.abs(rescaling(encoded) - wanted).mean()) for name, wanted in by_name.items()}
    return min(distance, key=distance.__getitem__), told


SHARES = {"standard scores": 0.0, "ranks": 1.0}


def test_ranks_are_chosen_where_a_few_values_are_far_off() -> None:
    # The same factor in all columns, seen through an exponential: standard scores crowd all but the largest.
    factor = DRAW.normal(size=(3_000, 1)) + 0.3 * DRAW.normal(size=(3_000, 6))

    scale, told = chosen(np.exp(3 * factor))

    assert scale == "ranks"
    assert told["ranks"] > told["standard scores"] + 0.02


def test_standard_scores_are_chosen_where_gaps_matter() -> None:
    # Two groups far apart, which ranks bring together.
    group = DRAW.integers(2, size=(3_000, 1))

    scale, told = chosen(20 * group + DRAW.normal(size=(3_000, 5)))

    assert scale == "standard scores"
    assert told["standard scores"] > told["ranks"]


def test_standard_scores_are_chosen_where_nothing_speaks_for_either() -> None:
    scale, told = chosen(DRAW.normal(size=(1_000, 4)))

    assert scale == "standard scores"
    assert told["ranks"] == pytest.approx(told["standard scores"], abs=0.02)


@pytest.mark.parametrize("n", [2, 9, 30])
def test_few_records_choose_standard_scores_or_better(n: int) -> None:
    scale, told = chosen(DRAW.normal(size=(n, 3)))

    assert scale == "standard scores"
    assert all(0 <= share <= 1 for share in told.values())


def test_the_choice_is_the_same_each_time() -> None:
    matrix = DRAW.lognormal(sigma=2, size=(800, 4))

    assert chosen(matrix) == chosen(matrix)


def test_a_missing_value_moves_no_map() -> None:
    matrix = np.random.default_rng(8).lognormal(size=(1_000, 2))
    matrix[::3, 0] = np.nan
    stream = stream_of_matrix(2)
    records = records_of_matrix(stream, matrix)
    encoder = Encoder.fit(stream, records)

    rescaling, _ = choose_scale(stream, encoder, records, seed=0)

    own = Encoder.fit(stream, records, 0.0).encode(records)
    known = matrix[:, 0] < np.nanquantile(matrix[:, 0], 0.99)  # the farthest lie between the last two points of a map
    assert isinstance(rescaling, Rescaling)
    np.testing.assert_allclose(rescaling(encoder.encode(records))[known, 0], own[known, 0], atol=0.1)
