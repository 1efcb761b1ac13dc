"""Drift: an index that is near nothing on the same law, that grows with what changed, and that chance does not move."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector import ArtifactError, ArtifactRefusal, Decoder, Detector, DriftReference, Encoder, Messages, Notes
from detector.drift import LEAST_REFERENCE, MOST_VALUES, Bins, number_edges
from detector.stream import StreamDefinition
from tests.detector.test_artifact import rehash
from tests.payments import decoded, message, payment

MIXED = StreamDefinition.from_toml("""
name = "mixed"
[[feature]]
kind = "number"
field = "x"
[[feature]]
kind = "category"
field = "kind"
min_count = 1
[[feature]]
kind = "time"
field = "at"
format = "iso8601"
zone = "Europe/Berlin"
""")


def reference_of(values: np.ndarray) -> DriftReference:
    """A reference of one number and the score, which is that number too."""
    edges = number_edges(values)
    empty = Bins("x", np.zeros(len(edges) + 2, np.int64), edges)
    bins = Bins("x", empty.count(values), edges)
    return DriftReference([bins], bins, None)


def index_of(reference: DriftReference, values: np.ndarray) -> float:
    counts = reference.features[0].count(values)
    return float(reference.compare(np.concatenate([counts, counts]))[0])


def encoded(rows: list[dict[str, object]], encoder: Encoder | None = None) -> tuple[Encoder, Notes]:
    records = Decoder(MIXED).decode(Messages([json.dumps(row).encode() for row in rows]))[0]
    encoder = encoder or Encoder.fit(MIXED, records)
    notes = Notes()
    encoder.encode(records, notes)
    return encoder, notes


def mixed_rows(n: int, seed: int = 0, **changes: object) -> list[dict[str, object]]:
    draw = np.random.default_rng(seed)
    return [
        {
            "x": float(draw.normal()),
            "kind": f"k{int(draw.integers(4))}",
            "at": f"2026-03-{1 + row % 28:02d}T{row % 24:02d}:30:00Z",
        }
        | changes
        for row in range(n)
    ]


def fitted(n: int = 400) -> tuple[Encoder, DriftReference]:
    encoder, notes = encoded(mixed_rows(n))
    reference = DriftReference.fit(encoder, notes, np.arange(float(n)), 1e6)
    assert reference is not None
    return encoder, reference


def indices(reference: DriftReference, notes: Notes) -> dict[str, float]:
    found = reference.compare(reference.count(notes, np.arange(400.0)))
    return dict(zip([bins.name for bins in reference.features], found.tolist(), strict=False))


def test_the_index_is_the_sum_of_its_definition_less_what_chance_makes_of_it() -> None:
    reference = DriftReference([], Bins("", np.array([60, 40, 0]), np.array([0.0])), None)

    (found,) = reference.compare(np.array([30, 70, 0]))

    p = [60.5 / 101.5, 40.5 / 101.5, 0.5 / 101.5]
    q = [(count + 1.5 * share) / 101.5 for count, share in zip([30, 70, 0], p, strict=True)]
    index = sum((b - a) * math.log(b / a) for a, b in zip(p[:2], q[:2], strict=True))  # the last is empty in both
    assert found == pytest.approx(index - (2 - 1) * (1 / 100 + 1 / 100))


@pytest.mark.parametrize(("m", "n"), [(LEAST_REFERENCE, 1_000), (1_000, 1_000), (20_000, 1_000), (20_000, 20_000)])
def test_records_of_the_same_law_hardly_ever_reach_a_tenth(m: int, n: int) -> None:
    draw = np.random.default_rng(m + n)

    found = [index_of(reference_of(draw.lognormal(size=m)), draw.lognormal(size=n)) for _ in range(200)]

    assert max(found) < 0.1
    # What is left in the mean is what cutting at 0 adds: less than a deviation of the index.
    assert np.mean(found) < math.sqrt(2 * 9) * (1 / n + 1 / m)


@pytest.mark.parametrize("shift", [0.25, 0.5, 1.0])
def test_a_shifted_normal_law_drifts_by_the_square_of_its_shift(shift: float) -> None:
    """The index of two normal laws of unit deviation is the squared distance of their means; bins lose a part."""
    draw = np.random.default_rng(1)
    reference = reference_of(draw.normal(size=50_000))

    found = index_of(reference, draw.normal(shift, size=50_000))

    assert 0.8 * shift**2 < found < 1.1 * shift**2


@given(st.floats(1.5, 100.0), st.integers(0, 2**31))
def test_another_unit_is_a_drift_whatever_the_numbers(factor: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    reference = reference_of(draw.lognormal(sigma=0.5, size=2_000))

    assert index_of(reference, factor * draw.lognormal(sigma=0.5, size=2_000)) > 0.25


def test_a_constant_tells_what_is_below_it_from_what_is_above_and_what_is_missing() -> None:
    reference = reference_of(np.full(500, 7.0))

    counts = reference.features[0].count(np.array([6.9, 7.0, 7.0, 7.1, np.nan, np.inf, -np.inf]))

    assert counts.tolist() == [2, 2, 2, 1]
    assert index_of(reference, np.full(2_000, 7.0)) < 1e-4
    assert min(index_of(reference, np.full(2_000, value)) for value in (6.0, 8.0, np.nan)) > 1


def test_a_number_that_is_mostly_zero_has_bins_on_both_sides_of_it() -> None:
    values = np.concatenate([np.zeros(900), np.arange(1.0, 101.0)])
    reference = reference_of(values)

    assert index_of(reference, values) < 1e-4
    assert index_of(reference, np.where(values == 0, -1.0, values)) > 1


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0, math.nan]), min_size=1, max_size=300))
def test_every_value_falls_into_one_bin(values: list[float]) -> None:
    column = np.array(values)

    counts = reference_of(column).features[0].counts

    assert counts.sum() == len(values)
    assert counts[-1] == np.isnan(column).sum()


def test_categories_have_bins_of_their_own_for_values_never_seen_and_for_missing_ones() -> None:
    encoder, reference = fitted()
    kinds = reference.features[1]

    notes = encoded([{"kind": kind} for kind in ("k0", "new", "newer", None)], encoder)[1]

    counts = kinds.count(notes.codes["kind"]).tolist()
    assert counts[-2:] == [2, 1]
    assert sum(counts) == 4
    assert (kinds.unseen_share, kinds.missing_share) == (0, 0)


def test_the_less_frequent_of_many_values_share_a_bin() -> None:
    rows = [{**row, "kind": f"v{min(place % 64, 39)}"} for place, row in enumerate(mixed_rows(640))]
    encoder, notes = encoded(rows)

    reference = DriftReference.fit(encoder, notes, np.arange(640.0), None)

    assert reference is not None
    kinds = reference.features[1]
    assert len(kinds.counts) == MOST_VALUES + 3
    assert kinds.counts[0] == 250  # v39, the most frequent: 25 of 64
    assert kinds.counts[MOST_VALUES:].tolist() == [10 * (40 - MOST_VALUES), 0, 0]


def test_hours_and_days_are_those_of_the_local_clock() -> None:
    encoder, reference = fitted()
    hours, days = reference.features[2:]

    times = ["2026-03-09T22:59:59.999999Z", "2026-03-09T23:00:00Z", None]  # Monday in Berlin, then Tuesday
    notes = encoded([{"at": time} for time in times], encoder)[1]

    assert np.flatnonzero(hours.count(notes.codes["at.hour"])).tolist() == [0, 23, 24]
    assert np.flatnonzero(days.count(notes.codes["at.weekday"])).tolist() == [0, 1, 7]
    assert (hours.cycle_s, days.cycle_s) == (86_400, 604_800)


def test_what_changed_drifts_and_nothing_else_does() -> None:
    encoder, reference = fitted()

    same = indices(reference, encoded(mixed_rows(400, seed=1), encoder)[1])
    one_kind = indices(reference, encoded(mixed_rows(400, seed=1, kind="k1"), encoder)[1])
    one_hour = indices(reference, encoded(mixed_rows(400, seed=1, at="2026-03-09T10:00:00Z"), encoder)[1])

    assert max(same.values()) < 0.1
    assert {name for name, index in one_kind.items() if index > 0.25} == {"kind"}
    assert {name for name, index in one_hour.items() if index > 0.25} == {"at.hour", "at.weekday"}


def test_a_tenth_without_a_value_is_a_drift() -> None:
    draw = np.random.default_rng(0)
    reference = reference_of(draw.normal(size=5_000))
    later = draw.normal(size=5_000)
    later[:500] = np.nan

    assert index_of(reference, later) > 0.25


def test_bins_in_the_tail_show_high_scores_that_tenths_would_hide(tiny_detector: Detector) -> None:
    draw = np.random.default_rng(0)
    reference = DriftReference.fit(tiny_detector.encoder, notes_of(tiny_detector), draw.exponential(size=50_000), None)
    assert reference is not None
    later = draw.exponential(size=50_000)
    later[:2_500] += 9.0  # one in twenty, where one in ten thousand normal records is

    found = reference.compare(
        np.concatenate([*(bins.counts for bins in reference.features), reference.score.count(later)])
    )[-1]

    assert found > 0.2
    assert index_of(reference_of(draw.exponential(size=50_000)), later) < 0.05


def notes_of(detector: Detector) -> Notes:
    notes = Notes()
    detector.encoder.encode(decoded([message(n) for n in range(300)]), notes)
    return notes


def test_too_few_records_are_no_reference(tiny_detector: Detector) -> None:
    few = np.arange(float(LEAST_REFERENCE - 1))

    assert DriftReference.fit(tiny_detector.encoder, notes_of(tiny_detector), few, None) is None


def test_the_reference_is_made_of_the_records_that_the_threshold_was_set_on(tiny_detector: Detector) -> None:
    reference = tiny_detector.reference

    assert reference is not None
    assert [bins.name for bins in reference.features] == tiny_detector.feature_names
    assert {int(bins.counts.sum()) for bins in (*reference.features, reference.score)} == {tiny_detector.threshold.n}
    assert reference.span_s == 15 * 3_600 + 37 * 60  # 375 payments, a minute apart, and the night between


def counts_of(detector: Detector, values: list[bytes]) -> np.ndarray:
    verdicts = detector.judge(decoded(values), explanations=False)[0]
    assert verdicts.drift is not None
    assert verdicts.drift.reference is detector.reference
    return verdicts.drift.counts


@settings(deadline=None, max_examples=30)
@given(cuts=st.lists(st.integers(0, 60), max_size=4))
def test_counts_do_not_depend_on_how_records_are_cut_into_batches(tiny_detector: Detector, cuts: list[int]) -> None:
    changes: list[dict[str, object]] = [{}, {"amount": None}, {"shop__kind": "zoo"}, {"at": None}, {"amount": 1e9}]
    values = [json.dumps(payment(n, **changes[n % 5])).encode() for n in range(60)]
    bounds = [0, *sorted(cuts), 60]

    parts = [counts_of(tiny_detector, values[a:b]) for a, b in pairwise(bounds)]

    assert np.sum(parts, axis=0).tolist() == counts_of(tiny_detector, values).tolist()


def test_a_score_that_is_not_finite_counts_in_the_features_alone(tiny_detector: Detector) -> None:
    reference = tiny_detector.reference
    assert reference is not None
    notes = notes_of(tiny_detector)
    scores = np.full(300, 0.5)
    scores[:7] = np.nan

    counts = reference.count(notes, scores)

    assert counts[-len(reference.score.counts) :].sum() == 293
    assert counts.sum() == 300 * len(reference.features) + 293


def test_the_reference_survives_the_way_through_an_artifact(tiny_detector: Detector, tmp_path: Path) -> None:
    values = [message(n, amount=5.0) for n in range(300)]

    loaded = Detector.load(tiny_detector.save(tmp_path / "artifact"))

    assert loaded.reference is not None
    assert tiny_detector.reference is not None
    counts = counts_of(loaded, values)
    assert counts.tolist() == counts_of(tiny_detector, values).tolist()
    assert loaded.reference.compare(counts).tolist() == tiny_detector.reference.compare(counts).tolist()
    assert loaded.reference.span_s == tiny_detector.reference.span_s


def test_an_artifact_without_a_reference_is_read_and_its_verdicts_have_no_drift(
    tiny_detector: Detector, tmp_path: Path
) -> None:
    directory = tiny_detector.save(tmp_path / "artifact")
    change_tensors(directory, lambda tensors: {name: t for name, t in tensors.items() if "reference." not in name})

    loaded = Detector.load(directory)

    assert loaded.reference is None
    assert loaded.judge(decoded([message(1)]))[0].drift is None


@pytest.mark.parametrize("name", ["reference.0.counts", "reference.1.edges", "reference.2.of_code", "reference.span_s"])
def test_a_damaged_reference_is_refused(tiny_detector: Detector, tmp_path: Path, name: str) -> None:
    for number, change in enumerate(
        (
            lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name},
            lambda tensors: {**tensors, name: tensors[name].flatten()[:1].expand(2).clone()},
        )
    ):
        directory = tiny_detector.save(tmp_path / str(number))
        change_tensors(directory, change)

        with pytest.raises(ArtifactError) as refusal:
            Detector.load(directory)

        assert refusal.value.reason is ArtifactRefusal.UNREADABLE


def change_tensors(directory: Path, change: Callable[[dict], dict]) -> None:  # type: ignore[type-arg]
    from safetensors.torch import load_file, save_file

    save_file(change(load_file(directory / "weights.safetensors")), directory / "weights.safetensors")
    rehash(directory)
