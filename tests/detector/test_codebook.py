"""The codebook: what it finds against an exhaustive search, what its scores are made of, bits that do not change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from detector import Codebook, Rescaling
from detector.codebook import NEIGHBOURS
from detector.nearest import find_cells

DRAW = np.random.default_rng(20260101)
GROUPS = DRAW.normal(0, 4, size=(6, 7))
NORMAL = (GROUPS[DRAW.integers(6, size=3_000)] + DRAW.normal(0, 0.5, size=(3_000, 7))).astype(np.float32)
OTHERS = (GROUPS[DRAW.integers(6, size=500)] + DRAW.normal(0, 1.0, size=(500, 7))).astype(np.float32)


@pytest.fixture(scope="module")
def book() -> Codebook:
    return Codebook.fit(NORMAL)


def nearest(row: NDArray[np.float32], codes: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The nearest codes of a row and their distances, by looking at all of them."""
    distances = np.sqrt(np.square(codes.astype(np.float64) - row).sum(axis=1))
    order = np.argsort(distances, kind="stable")[:NEIGHBOURS]
    return order, distances[order]


def test_every_normal_record_is_a_code(book: Codebook) -> None:
    assert sorted(map(tuple, book.codes.tolist())) == sorted(map(tuple, NORMAL.tolist()))


def test_records_are_rebuilt_from_their_nearest_codes_by_inverse_squared_distance(
    book: Codebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detector.codebook.PROBES", 1_000)  # every cell
    expected = []
    for row in OTHERS:
        places, distances = nearest(row, book.codes)
        weights = 1 / (distances**2 + 1e-6)
        expected.append((weights[:, None] * book.codes[places]).sum(axis=0) / weights.sum())

    np.testing.assert_allclose(book.reconstruct(OTHERS), expected, rtol=1e-3, atol=1e-4)


def test_a_few_cells_hold_the_nearest_codes_of_most_records(book: Codebook) -> None:
    found = book.measures(OTHERS)[:, 2]
    least = np.array([nearest(row, book.codes)[1].mean() for row in OTHERS])

    assert (found >= least * (1 - 1e-5)).all()
    assert (found <= least * 1.02).mean() > 0.95


def test_scores_are_made_of_the_three_measures_by_their_definition(
    book: Codebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detector.codebook.PROBES", 1_000)
    rebuilt = book.reconstruct(OTHERS).astype(np.float64)
    residuals = OTHERS - rebuilt
    expected = []
    for row, residual in zip(OTHERS, residuals, strict=True):
        _, distances = nearest(row, book.codes)
        by_column = np.log1p(np.square(residual / book.scale)).mean()
        measures = np.array([np.sqrt(np.square(residual).sum()), by_column, distances.mean()])
        expected.append(np.log1p(measures / book.typical).mean())

    np.testing.assert_allclose(book.score(OTHERS), expected, rtol=1e-3)


def test_a_code_is_judged_as_if_it_were_none(book: Codebook) -> None:
    without_first = Codebook.fit(NORMAL[1:])
    # The same codes but one, and what is typical hardly moves.
    assert book.score(NORMAL[:1], leave_out=True) == pytest.approx(without_first.score(NORMAL[:1]), rel=0.05)
    assert (book.score(NORMAL) < book.score(NORMAL, leave_out=True)).all()
    assert np.quantile(book.measures(NORMAL)[:, 0], 0.99) < 1e-2


def test_of_two_equal_codes_one_is_left_out() -> None:
    rows = np.concatenate([NORMAL[:300], NORMAL[:1]])

    twice = Codebook.fit(rows)

    assert twice.measures(rows[:1])[0, 2] < twice.measures(rows[1:2])[0, 2]
    assert twice.score(rows[:1], leave_out=True) < twice.score(rows[1:2], leave_out=True)


def test_the_same_record_gets_the_same_bits_alone_and_anywhere_in_a_batch(book: Codebook) -> None:
    together = book.score(OTHERS)

    assert all(book.score(OTHERS[row : row + 1])[0] == together[row] for row in range(len(OTHERS)))
    assert (book.score(OTHERS[::-1])[::-1] == together).all()
    many = np.concatenate([NORMAL, NORMAL, OTHERS])  # more than are looked at in one go
    assert (book.score(many)[-len(OTHERS) :] == together).all()


def test_stranger_records_score_higher_without_end(book: Codebook) -> None:
    away = np.geomspace(20, 1e6, 40).astype(np.float32)[:, None] * np.ones(7, np.float32)

    scores = book.score(away)

    assert np.isfinite(scores).all()
    assert (np.diff(scores) > 0).all()
    assert scores[0] > book.score(NORMAL, leave_out=True).max()


def test_what_lies_in_a_gap_is_strange_though_it_is_rebuilt_well() -> None:
    draw = np.random.default_rng(0)
    left, right = draw.normal(0, 0.02, size=(600, 2)), draw.normal((0.5, 0), 0.02, size=(600, 2))
    both = np.concatenate([left, right]).astype(np.float32)
    book = Codebook.fit(both)
    gap = np.array([[0.25, 0.0]], np.float32)

    assert book.score(gap)[0] > book.score(both, leave_out=True).max()


@pytest.mark.parametrize("count", [1, 3, 4, 5, 40])
def test_the_cells_that_are_searched_are_those_with_the_nearest_centres_the_first_of_equal_ones(count: int) -> None:
    draw = np.random.default_rng(count)
    rows, centres = (draw.integers(-2, 3, (n, 6)).astype(np.float32) for n in (50, count))  # exact, with many equals
    cells = np.empty((50, min(4, count)), np.int64)
    squares = np.empty(cells.shape, np.float32)

    find_cells(rows, centres.T.ravel(), cells, squares)

    distances = np.square(rows[:, None] - centres).sum(axis=2)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, : cells.shape[1]]
    assert cells.tolist() == nearest.tolist()
    assert squares.tolist() == np.take_along_axis(distances, nearest, axis=1).tolist()


def test_cells_that_cannot_hold_a_nearer_code_are_passed_over_without_a_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Far apart groups: the first cell that is searched rules out most others.
    monkeypatch.setattr("detector.codebook.PROBES", 1_000)
    book = Codebook.fit(NORMAL)

    expected = [nearest(row, book.codes)[1].mean() for row in OTHERS]

    np.testing.assert_allclose(book.measures(OTHERS)[:, 2], expected, rtol=1e-4)


def test_records_are_compared_on_the_scale_that_is_wanted() -> None:
    wanted = np.sinh(NORMAL)
    rescaling = Rescaling.fit(NORMAL, wanted)

    compared = Codebook.fit(NORMAL, rescaling=rescaling)

    directly = Codebook.fit(rescaling(NORMAL))
    np.testing.assert_array_equal(compared.score(OTHERS), directly.score(rescaling(OTHERS)))
    assert np.corrcoef(compared.score(OTHERS), Codebook.fit(NORMAL).score(OTHERS))[0, 1] < 0.99


def test_a_record_that_differs_where_none_ever_did_is_strange() -> None:
    rows = np.concatenate([NORMAL[:500], np.full((500, 1), -0.1, np.float32)], axis=1)
    book = Codebook.fit(rows)
    flagged = rows.copy()
    flagged[:, 7] = 20.0

    assert book.columns.tolist() == list(range(7))
    assert (book.score(flagged) > 2 * book.score(rows, leave_out=True).max()).all()


def test_a_record_that_is_no_number_has_no_score(book: Codebook) -> None:
    rows = OTHERS[:2].copy()
    rows[0, 3] = np.nan

    assert np.isnan(book.score(rows)).tolist() == [True, False]


def test_more_records_than_codes_are_drawn_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.codebook.MOST_CODES", 200)

    first, again, other = (Codebook.fit(NORMAL, seed) for seed in (0, 0, 1))

    assert len(first.codes) == 200
    assert (first.codes == again.codes).all()
    assert not (first.codes == other.codes).all()


@pytest.mark.parametrize("n", [3, 4, 20, 97])
def test_few_codes_give_finite_scores(n: int) -> None:
    book = Codebook.fit(NORMAL[:n])

    assert np.isfinite(book.score(OTHERS)).all()
    assert np.isfinite(book.score(NORMAL[:n], leave_out=True)).all()


def test_a_codebook_of_the_same_state_gives_the_same_bits(book: Codebook) -> None:
    assert Codebook(**book.state()).score(OTHERS).tobytes() == book.score(OTHERS).tobytes()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("starts", lambda starts: starts + 1),
        ("starts", lambda starts: starts[::-1].copy()),
        ("starts", lambda starts: starts[:-1]),
        ("codes", lambda codes: codes[:-1]),
        ("centres", lambda centres: centres[:, :-1]),
        ("grid", lambda grid: grid[:5]),
        ("grid", lambda grid: grid[:, :5]),
        ("scale", lambda scale: scale[:1]),
        ("typical", lambda typical: typical[:2]),
        ("columns", lambda columns: columns[:2]),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(
    book: Codebook, name: str, change: Callable[[NDArray[Any]], NDArray[Any]]
) -> None:
    state = book.state()

    with pytest.raises(ValueError, match="it is damaged"):
        Codebook(**(state | {name: change(state[name])}))
