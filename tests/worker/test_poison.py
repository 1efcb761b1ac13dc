"""Telling bad records from a bad stream."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import PoisonStream
from worker.poison import PoisonCount
from worker.settings import PoisonSettings

FIVE_IN_A_ROW = PoisonSettings(max_consecutive=5, max_ratio=1.0)


def count(dead: list[bool], limits: PoisonSettings = FIVE_IN_A_ROW, before: PoisonCount | None = None) -> PoisonCount:
    return (before or PoisonCount()).after(np.array(dead, np.bool_), limits)


def test_as_many_dead_letters_in_a_row_as_allowed_do_not_stop_the_stream() -> None:
    assert count([True] * 5).consecutive == 5


def test_one_more_in_a_row_stops_it_with_the_settings_name() -> None:
    with pytest.raises(PoisonStream, match=r"poison\.max_consecutive is 5"):
        count([True] * 6)


def test_a_run_inside_a_batch_stops_it_although_the_batch_ends_well() -> None:
    with pytest.raises(PoisonStream):
        count([False] + [True] * 6 + [False])


def test_a_run_goes_on_from_batch_to_batch() -> None:
    with pytest.raises(PoisonStream):
        count([True] * 3, before=count([True] * 3))


def test_a_good_record_ends_a_run() -> None:
    assert count([True] * 3, before=count([True] * 3 + [False])).consecutive == 3


def test_a_batch_without_anything_but_tombstones_changes_nothing() -> None:
    assert count([], before=count([True] * 3)).consecutive == 3


def test_the_ratio_is_not_judged_before_the_window_is_full() -> None:
    limits = PoisonSettings(max_consecutive=100, max_ratio=0.5, window=10)

    before = count([True] * 9, limits)

    with pytest.raises(PoisonStream, match=r"100% of the last 10 records .* poison\.max_ratio is 0\.5"):
        count([True], limits, before)


def test_the_ratio_forgets_what_is_older_than_the_window() -> None:
    limits = PoisonSettings(max_consecutive=100, max_ratio=0.5, window=10)

    before = count([True, False] * 5, limits)

    assert count([False] * 10, limits, before).recent.sum() == 0


@given(st.lists(st.lists(st.booleans(), max_size=8), max_size=8))
def test_runs_are_counted_as_if_there_were_no_batches(batches: list[list[bool]]) -> None:
    joined = list(itertools.chain(*batches))
    longest = max((len(list(run)) for dead, run in itertools.groupby(joined) if dead), default=0)

    state, stopped = PoisonCount(), False
    try:
        for batch in batches:
            state = count(batch, before=state)
    except PoisonStream:
        stopped = True

    assert stopped == (longest > 5)
    if not stopped:
        assert state.consecutive == len(list(itertools.takewhile(bool, reversed(joined))))
