"""What the simulated payments are like, and what can and cannot be seen in them."""

from __future__ import annotations

from functools import cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from demo.payments import LabelledPayments
from demo.simulator import Simulator

HISTORY_DAYS = 21


@cache
def history() -> pa.Table:
    return pa.concat_tables([day.table() for day in Simulator(seed=5).days(0, HISTORY_DAYS)])


@cache
def live() -> pa.Table:
    return pa.concat_tables([day.table() for day in Simulator(seed=5).days(HISTORY_DAYS, HISTORY_DAYS)])


def column(table: pa.Table, name: str) -> NDArray[np.object_]:
    return np.array(table.column(name).to_pylist(), dtype=object)


def amounts(table: pa.Table) -> NDArray[np.float64]:
    return column(table, "amount").astype(float)


def caught(flagged: NDArray[np.bool_], table: pa.Table, kind: str) -> float:
    return float(flagged[column(table, "fraud_kind") == kind].mean())


def everything(day: LabelledPayments) -> bytes:
    return b"\n".join(day.messages())


def test_the_same_seed_gives_the_same_payments_to_the_byte() -> None:
    assert everything(Simulator(seed=1, customers=300).day(4)) == everything(Simulator(seed=1, customers=300).day(4))


def test_another_seed_gives_other_payments() -> None:
    assert everything(Simulator(seed=1, customers=300).day(4)) != everything(Simulator(seed=2, customers=300).day(4))


def test_a_day_is_the_same_whichever_days_were_made_before_it() -> None:
    simulator = Simulator(seed=1, customers=300)

    *_, last = simulator.days(0, 8)

    assert everything(last) == everything(Simulator(seed=1, customers=300).day(7))


def test_payments_come_in_the_order_of_their_time_and_inside_their_day() -> None:
    stamps = column(Simulator(seed=1, customers=300).day(2).table(), "timestamp")

    assert list(stamps) == sorted(stamps)
    assert {stamp[:10] for stamp in stamps} == {"2026-01-07"}


def test_transaction_ids_are_unique_across_days() -> None:
    ids = column(history(), "transaction_id")

    assert len(set(ids)) == len(ids)


def test_three_weeks_of_the_usual_population_are_enough_to_train_on() -> None:
    assert 75_000 < history().num_rows < 95_000


def test_about_six_payments_in_a_thousand_are_frauds() -> None:
    share = column(history(), "is_fraud").astype(float).mean()

    assert 0.005 < share < 0.0075


def test_every_kind_of_fraud_happens_in_history_and_in_the_live_stream() -> None:
    for table in (history(), live()):
        kinds, counts = np.unique(column(table, "fraud_kind").astype(str), return_counts=True)
        seen = dict(zip(kinds.tolist(), counts.tolist(), strict=True))
        seen.pop("None")
        assert set(seen) == {"spree", "cash_out", "card_testing", "keyed_in", "neighbour"}
        assert min(seen.values()) >= 50


def test_label_and_kind_never_contradict_each_other() -> None:
    assert ((column(history(), "is_fraud") == 1) == (column(history(), "fraud_kind") != None)).all()  # noqa: E711


def test_habits_do_not_change_between_history_and_live_stream() -> None:
    for name in ("merchant_category", "channel", "entry_mode", "merchant_country", "device"):
        for value in set(column(history(), name)):
            then = (column(history(), name) == value).mean()
            now = (column(live(), name) == value).mean()
            assert abs(then - now) < 0.01
    quantiles = np.linspace(0.05, 0.95, 10)
    ratio = np.quantile(amounts(history()), quantiles) / np.quantile(amounts(live()), quantiles)
    assert np.abs(ratio - 1).max() < 0.05


def test_people_sleep_at_night_and_shop_less_on_sundays() -> None:
    stamps = np.array([stamp.removesuffix("Z") for stamp in column(history(), "timestamp")], dtype="datetime64[ms]")
    hours = (stamps - stamps.astype("datetime64[D]")).astype("timedelta64[h]").astype(int)
    weekday = np.array([(int(day) + 3) % 7 for day in stamps.astype("datetime64[D]").astype(int)])
    groceries = column(history(), "merchant_category") == "groceries"

    assert (hours < 5).mean() < 0.04
    assert (groceries & (weekday == 6)).sum() < 0.75 * (groceries & (weekday == 4)).sum()


def test_most_people_pay_near_home_and_some_travel() -> None:
    distance = column(history(), "distance_km").astype(float)
    known = distance[~np.isnan(distance)]

    assert np.median(known) < 15
    assert 0.02 < (known > 300).mean() < 0.2


def test_some_terminals_do_not_say_where_they_are_and_some_shops_not_what_they_were_visited_with() -> None:
    channel, honest = column(history(), "channel"), column(history(), "is_fraud") == 0
    no_distance = column(history(), "distance_km") == None  # noqa: E711
    no_device = column(history(), "device") == None  # noqa: E711

    assert 0.03 < no_distance[channel == "pos"].mean() < 0.15
    assert no_distance[channel == "online"].all()
    assert 0.05 < no_device[(channel == "online") & honest].mean() < 0.3
    assert no_device[channel != "online"].all()


def test_a_field_that_was_not_sent_is_absent_from_the_message_and_not_null() -> None:
    assert b"null" not in everything(Simulator(seed=1, customers=300).day(0))


def test_a_rule_on_large_amounts_sees_sprees_and_no_other_kind() -> None:
    flagged = amounts(live()) >= np.quantile(amounts(live()), 0.99)

    assert caught(flagged, live(), "spree") > 0.7
    assert caught(flagged, live(), "cash_out") < 0.02
    assert caught(flagged, live(), "card_testing") == 0
    assert caught(flagged, live(), "keyed_in") < 0.05
    assert caught(flagged, live(), "neighbour") < 0.1


def test_a_rule_on_small_amounts_sees_next_to_nothing_at_the_price_of_many_false_alarms() -> None:
    flagged = amounts(live()) <= np.quantile(amounts(live()), 0.01)

    assert caught(flagged, live(), "card_testing") < 0.2
    for kind in ("spree", "cash_out", "keyed_in", "neighbour"):
        assert caught(flagged, live(), kind) == 0


def test_some_honest_payments_are_larger_than_most_sprees() -> None:
    honest = amounts(live())[column(live(), "is_fraud") == 0]
    sprees = amounts(live())[column(live(), "fraud_kind") == "spree"]

    assert (honest > np.quantile(sprees, 0.25)).sum() >= 0.15 * len(sprees)


def test_a_keyed_in_fraud_shows_only_in_the_combination_of_its_fields() -> None:
    fraud = column(live(), "fraud_kind") == "keyed_in"
    honest = column(live(), "is_fraud") == 0
    for name in ("channel", "entry_mode", "merchant_category", "merchant_country"):
        values = column(live(), name)
        for value in set(values[fraud]):
            assert (values[honest] == value).mean() > 0.03
    typed_at_the_till = (column(live(), "channel") == "pos") & (column(live(), "entry_mode") == "keyed")
    assert 0 < typed_at_the_till[honest].mean() < 0.001
    assert typed_at_the_till[fraud].all()


def test_a_neighbours_payments_are_in_every_field_what_others_pay_in_the_same_categories() -> None:
    fraud = column(live(), "fraud_kind") == "neighbour"
    same = (column(live(), "is_fraud") == 0) & np.isin(
        column(live(), "merchant_category"), ["fuel", "cash", "electronics"]
    )
    for name in ("merchant_category", "channel", "entry_mode", "merchant_country", "device"):
        values = column(live(), name)
        for value in set(values[same]):
            assert abs((values[fraud] == value).mean() - (values[same] == value).mean()) < 0.15
    quantiles = np.linspace(0.05, 0.95, 10)
    ratio = np.quantile(amounts(live())[fraud], quantiles) / np.quantile(amounts(live())[same], quantiles)
    assert np.abs(np.log(ratio)).max() < 0.5
    distance = column(live(), "distance_km").astype(float)
    assert np.nanmedian(distance[fraud]) < 15


def test_a_neighbours_payments_are_none_that_the_cards_owner_ever_makes() -> None:
    fraud = column(live(), "fraud_kind") == "neighbour"
    honest = column(live(), "is_fraud") == 0
    owners = np.isin(column(live(), "customer_id"), column(live(), "customer_id")[fraud])

    assert set(column(live(), "merchant_category")[owners & honest]) == {"transit"}
    assert np.median(amounts(live())[fraud]) > 10 * np.median(amounts(live())[owners & honest])


def test_cards_bear_numbers_that_no_bank_issues() -> None:
    numbers = column(history(), "card_number")

    assert {len(number) for number in numbers} == {16}
    assert {number[:2] for number in numbers} == {"99"}
