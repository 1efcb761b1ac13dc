"""How well codes keep neighbourhoods and variance: by hand, and as scikit-learn computes it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.manifold import trustworthiness

from trainer.neighbourhoods import Preservation, explained_variance, preservation

LINE = np.array([[0.0], [1.0], [3.0], [6.0]])


def test_a_code_that_keeps_all_distances_keeps_all_neighbourhoods() -> None:
    draw = np.random.default_rng(0)
    records = draw.normal(size=(80, 5))
    turn, _ = np.linalg.qr(draw.normal(size=(5, 5)))

    assert preservation(records, 3 * records @ turn + 7, 6) == Preservation(1.0, 1.0, 1.0)


def test_neighbourhoods_of_four_records_are_as_by_hand() -> None:
    # Nearest on the line 0, 1, 3, 6: b a b c. The codes exchange the first and the last of them: nearest of
    # a=6 is c (rank 2 before), of b=1 is c=3 (1 from a before, c was second), of c=3 is b still, of d=0 is b (rank 2).
    codes = np.array([[6.0], [1.0], [3.0], [0.0]])

    found = preservation(LINE, codes, 1)

    # Before, the nearest: a->b, b->a, c->b, d->c. After: a(6)->c, b(1)->d, c(3)->b, d(0)->b.
    # Ranks before of what came: c for a 2, d for b 3, b for d 2: beyond the first by 1 + 2 + 1 = 4.
    # Ranks after of what left: b for a 2, a for b 3, c for d 2: 4 as well. Worst: 4 * 1 * (8 - 3 - 1) / 2 = 8.
    assert (found.trustworthiness, found.continuity, found.overlap) == (0.5, 0.5, 0.25)


def test_what_comes_near_costs_trust_and_what_goes_away_costs_continuity() -> None:
    # Two clusters fall together: strangers become neighbours. One is torn: neighbours become strangers.
    draw = np.random.default_rng(1)
    ring = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    circle = np.stack([np.cos(ring), np.sin(ring)], axis=1)

    torn, flattened = preservation(circle, ring[:, None], 4), preservation(circle, circle[:, :1], 4)

    assert torn.trustworthiness > torn.continuity
    assert flattened.continuity > flattened.trustworthiness
    assert preservation(circle, draw.normal(size=(60, 2)), 4).overlap < 0.2  # .07 by chance


@pytest.mark.parametrize("k", [1, 5, 20])
def test_trustworthiness_is_that_of_scikit_learn_and_continuity_the_same_turned_round(k: int) -> None:
    draw = np.random.default_rng(2)
    records, codes = draw.normal(size=(70, 6)), draw.normal(size=(70, 2))

    found = preservation(records, codes, k)

    assert found.trustworthiness == pytest.approx(trustworthiness(records, codes, n_neighbors=k), abs=1e-12)
    assert found.continuity == pytest.approx(trustworthiness(codes, records, n_neighbors=k), abs=1e-12)


def test_neighbourhoods_without_meaning_are_refused() -> None:
    with pytest.raises(ValueError, match="2 neighbours of 4 records"):
        preservation(LINE, LINE, 2)
    with pytest.raises(ValueError, match="4 records and 3 codes"):
        preservation(LINE, LINE[:3], 1)


def test_explained_variance_is_as_by_hand() -> None:
    records = np.array([[1.0, 0.0], [3.0, 0.0], [2.0, 3.0], [2.0, -3.0]])  # variance 2 + 18

    assert explained_variance(records, records) == 1.0
    assert explained_variance(records, records * [0, 1] + [2, 0]) == pytest.approx(0.9)
    assert explained_variance(records, np.full((4, 2), [2.0, 0.0])) == 0.0
    assert explained_variance(records, records + 10) < 0
    with pytest.raises(ValueError, match="2 equal records"):
        explained_variance(np.ones((2, 3)), np.ones((2, 3)))
