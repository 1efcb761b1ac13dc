"""What a tour's figures come to, with figures computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from demo.tally import Account, KindTally, SeenAlert, broken_promises, detection, latency_quantiles
from demo.wire import Delivery

# Seven messages: two sprees with large amounts, a cash-out with a small one, one honest payment that is larger than
# all, one spree damaged on its way, a tombstone.
DELIVERY = Delivery(
    keys=[b"k"] * 7,
    values=[b"{}", b"{}", b"{}", b"{}", b"{}", b"{", None],
    transaction_ids=["a", "b", "c", "d", "e", "f", "g"],
    amounts=[900.0, 20.0, 700.0, 950.0, 5.0, 800.0, 5.0],
    fraud_kinds=["spree", "cash_out", "spree", None, None, "spree", None],
    damage=[None, None, None, None, None, "not_json", "tombstone"],
)


def alert(record_id: str, latency_s: float = 0.1) -> SeenAlert:
    return SeenAlert(f"alert-{record_id}", record_id, latency_s)


ALERTS = [alert("a"), alert("b"), alert("e")]
WITHOUT_HISTORY = frozenset({"c", "f"})
ACCOUNT = Account(
    consumed=7,
    outcomes={"normal": 2, "alert": 3, "suppressed": 1, "dead_letter": 1},
    dead_letters={"not_json": 1},
    suppressed={"tombstone": 1},
)


def test_frauds_that_never_arrived_intact_are_nobodys_to_catch() -> None:
    assert detection(DELIVERY, ALERTS, WITHOUT_HISTORY).injected == 3


def test_each_kind_is_counted_beside_what_no_history_and_as_many_alerts_on_the_largest_amounts_find() -> None:
    tally = detection(DELIVERY, ALERTS, WITHOUT_HISTORY)

    # The three largest intact amounts are 950 (honest), 900 and 700 (sprees).
    assert [kind for kind in tally.kinds if kind.injected] == [
        KindTally("spree", injected=2, caught=1, caught_without_history=1, caught_by_amount=2),
        KindTally("cash_out", injected=1, caught=1, caught_without_history=0, caught_by_amount=0),
    ]


def test_alerts_are_told_from_the_frauds_among_them() -> None:
    tally = detection(DELIVERY, ALERTS, WITHOUT_HISTORY)

    assert (tally.alerts, tally.true_alerts, tally.true_by_amount) == (3, 2, 2)
    assert (tally.alerts_without_history, tally.true_without_history) == (1, 1)


def test_a_repeated_alert_is_one_alert() -> None:
    assert detection(DELIVERY, [*ALERTS, *ALERTS], WITHOUT_HISTORY) == detection(DELIVERY, ALERTS, WITHOUT_HISTORY)


def test_without_alerts_nothing_is_caught_and_nothing_was_late() -> None:
    tally = detection(DELIVERY, [], frozenset())

    assert (tally.alerts, tally.true_alerts, tally.true_by_amount) == (0, 0, 0)
    assert latency_quantiles([]) is None


def test_latency_is_told_by_its_median_and_its_95th_percentile() -> None:
    alerts = [alert(str(number), latency_s=number / 100) for number in range(101)]

    assert latency_quantiles(alerts) == pytest.approx((0.5, 0.95))


def test_figures_that_agree_break_no_promise() -> None:
    assert broken_promises(DELIVERY, ACCOUNT, ALERTS, committed=7) == []


def test_a_repeated_alert_with_the_same_id_breaks_no_promise() -> None:
    assert broken_promises(DELIVERY, ACCOUNT, [*ALERTS, ALERTS[0]], committed=7) == []


@pytest.mark.parametrize(
    ("account", "alerts", "committed", "words"),
    [
        (replace(ACCOUNT, consumed=6), ALERTS, 7, "7 sent, 6 consumed"),
        (replace(ACCOUNT, outcomes=ACCOUNT.outcomes | {"normal": 1}), ALERTS, 7, "6 with an outcome"),  # type: ignore[operator]
        (replace(ACCOUNT, dead_letters={"wrong_type": 1}), ALERTS, 7, "are not the damaged messages"),
        (replace(ACCOUNT, suppressed={}), ALERTS, 7, "1 tombstones were sent and 0 suppressed"),
        (ACCOUNT, ALERTS[:2], 7, "3 records got an alert and 2 alerts were read"),
        (ACCOUNT, ALERTS, 6, "7 records were sent and 6 are committed"),
    ],
)
def test_figures_that_disagree_are_named(account: Account, alerts: list[SeenAlert], committed: int, words: str) -> None:
    broken = broken_promises(DELIVERY, account, alerts, committed)

    assert len(broken) == 1
    assert words in broken[0]
