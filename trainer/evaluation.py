"""How well scores rank known anomalies above normal records; it knows neither networks nor files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.times import to_local

#: Depths at which precision is reported, in records.
PRECISION_DEPTHS = (100, 1000)

#: Entities that an analyst looks at in a day.
ENTITIES_PER_DAY = 100


@dataclass(frozen=True)
class EntityPrecision:
    """Precision of the daily list of the most suspicious entities.

    Attributes:
        mean: Mean over the days of (entities in the day's list that were anomalous that day) / k.
        attainable: The same for a ranking without a fault: below 1 where days have fewer than k anomalous entities.
        days: Number of days, those without an anomaly included.
        k: Length of the list.
    """

    mean: float
    attainable: float
    days: int
    k: int


@dataclass(frozen=True)
class Evaluation:
    """What the scores of labelled records are worth.

    Attributes:
        records: Records that were ranked.
        anomalies: Known anomalies among them.
        auroc: Probability that a known anomaly scores above a normal record; a tie counts half.
        average_precision: Mean precision at each known anomaly, from the highest score down.
        precision_at: Share of known anomalies among the k highest scores, by k; only k <= records.
        entity: Precision by entity and day, None where the stream has no key or no event time.
    """

    records: int
    anomalies: int
    auroc: float
    average_precision: float
    precision_at: dict[int, float]
    entity: EntityPrecision | None = None


def evaluate(
    scores: NDArray[np.floating],
    anomalous: NDArray[np.bool_],
    *,
    entities: NDArray[np.object_] | None = None,
    times: NDArray[np.datetime64] | None = None,
    zone: str = "UTC",
) -> Evaluation | None:
    """Compare scores with labels, or return None where the labels have one value only.

    Args:
        scores: Anomaly scores, higher is stranger, shape (n,); records whose score is not finite are left out.
        anomalous: True for a known anomaly, shape (n,).
        entities: Entity of each record, None where it has none, shape (n,).
        times: Event time of each record in UTC, NaT where it has none, shape (n,).
        zone: Zone whose midnight begins a day.
    """
    finite = np.isfinite(scores)
    scores, anomalous = scores[finite], anomalous[finite]
    if not anomalous.any() or anomalous.all():
        return None
    entity = None
    if entities is not None and times is not None:
        entities, times = entities[finite], times[finite]
        known = ~np.isnat(times) & np.array([name is not None for name in entities], np.bool_)
        if anomalous[known].any():
            days = to_local(times[known], zone).astype("datetime64[D]").astype(np.int64)
            entity = entity_precision(scores[known], anomalous[known], entities[known], days)
    return Evaluation(
        records=len(scores),
        anomalies=int(anomalous.sum()),
        auroc=auroc(scores, anomalous),
        average_precision=average_precision(scores, anomalous),
        precision_at={k: precision_at(scores, anomalous, k) for k in PRECISION_DEPTHS if k <= len(scores)},
        entity=entity,
    )


def auroc(scores: NDArray[np.floating], anomalous: NDArray[np.bool_]) -> float:
    """Probability that a random anomaly scores above a random normal record, a tie counting half.

    Raises:
        ValueError: All records are anomalous or all are normal, so that there is nothing to compare.
    """
    above, total = _anomalies_by_distinct_score(scores, anomalous)
    anomalies = int(above.sum())
    normals = int(total.sum()) - anomalies
    if anomalies == 0 or normals == 0:
        raise ValueError(
            f"{anomalies} anomalies and {normals} normal records cannot be compared: give at least one of each"
        )
    normal = total - above
    lower = normals - np.cumsum(normal)
    wins = float((above * (lower + normal / 2)).sum())
    return wins / (anomalies * normals)


def average_precision(scores: NDArray[np.floating], anomalous: NDArray[np.bool_]) -> float:
    """Area under precision over recall as a step function; records of equal score enter together.

    Raises:
        ValueError: No record is anomalous.
    """
    hits, total = _anomalies_by_distinct_score(scores, anomalous)
    if not hits.any():
        raise ValueError("average precision needs at least one anomaly")
    precision = np.cumsum(hits) / np.cumsum(total)
    return float((precision * hits).sum() / hits.sum())


def precision_at(scores: NDArray[np.floating], anomalous: NDArray[np.bool_], k: int) -> float:
    """Share of anomalies among the `k` highest scores.

    Where the k-th place is tied, the expected share if the tie is broken by chance, so that the order of the
    records does not matter.

    Raises:
        ValueError: `k` is below 1 or above the number of records.
    """
    if not 1 <= k <= len(scores):
        raise ValueError(f"precision at {k} is not defined for {len(scores)} records")
    hits, total = _anomalies_by_distinct_score(scores, anomalous)
    before = np.concatenate([[0], np.cumsum(total)[:-1]])
    taken = np.clip(k - before, 0, total)
    return float((hits * taken / total).sum() / k)


def entity_precision(
    scores: NDArray[np.floating],
    anomalous: NDArray[np.bool_],
    entities: NDArray[np.object_],
    days: NDArray[np.int64],
    k: int = ENTITIES_PER_DAY,
) -> EntityPrecision:
    """Precision of a daily list of `k` entities, each ranked by its highest score of the day.

    An entity that was anomalous and on the list is blocked: its records of later days are neither ranked nor missed.
    Equal scores are ordered by the entity's name, so that the order of the records does not matter.

    Args:
        scores: Anomaly scores, shape (n,).
        anomalous: True for a known anomaly, shape (n,).
        entities: Entity of each record, shape (n,).
        days: Number of the day of each record, shape (n,).
        k: Entities on the list; a day with fewer entities is still divided by k.

    Raises:
        ValueError: There are no records.

    Source: Le Borgne et al., "Reproducible Machine Learning for Credit Card Fraud Detection", 2022,
        "Card precision top-k" (https://fraud-detection-handbook.github.io/fraud-detection-handbook/).
    """
    if len(scores) == 0:
        raise ValueError("entity precision needs at least one record")
    names, codes = np.unique(entities.astype(str), return_inverse=True)
    blocked = np.zeros(len(names), np.bool_)
    found: list[int] = []
    attainable: list[int] = []
    order = np.argsort(days, kind="stable")
    for today in np.split(order, np.flatnonzero(np.diff(days[order])) + 1):
        rows = today[~blocked[codes[today]]]
        highest = np.full(len(names), -np.inf)
        np.maximum.at(highest, codes[rows], scores[rows])
        guilty = np.zeros(len(names), np.bool_)
        guilty[codes[rows[anomalous[rows]]]] = True
        present = np.unique(codes[rows])
        listed = present[np.argsort(-highest[present], kind="stable")[:k]]
        caught = listed[guilty[listed]]
        blocked[caught] = True
        found.append(len(caught))
        attainable.append(min(int(guilty.sum()), k))
    return EntityPrecision(
        mean=float(np.mean(found)) / k, attainable=float(np.mean(attainable)) / k, days=len(found), k=k
    )


def _anomalies_by_distinct_score(
    scores: NDArray[np.floating], anomalous: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Anomalies and records at each distinct score, from the highest score down, shapes (distinct,)."""
    _, codes = np.unique(-scores, return_inverse=True)
    total = np.bincount(codes)
    hits = np.bincount(codes[anomalous], minlength=len(total))
    return hits, total
