"""The fold over one entity's records after the other, compiled; it knows arrays alone, no keys and no definitions.

Every record sees what its entity's earlier records left behind, gives its features, and joins them. One record is
worked on at a time, so that its bits depend on nothing but its own entity's records, in whatever batches they come.
"""

# ruff: noqa: C901, D417, FBT001 - one compiled loop: calls with so many arrays would hide it, and cost more
from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from detector.compiled import compiled
from detector.history_layout import COUNT, EXCESS, HIGHEST, LOWEST, NEVER, SLOTS, SQUARES, STATISTICS, SUM

PRIOR_RECORDS = 2.0
"""As many records as the prior counts for."""

HALF_AFTER = 200.0
"""Records after which a sum over all records is halved: what is older than that fades."""

LEAST_SHARE = 0.01
"""Least size of a mean that others are measured by, as a share of the prior's mean and deviation together."""

USUAL_HOUR = 0.05
"""Least concentration (0 none, 1 always the same minute) for an entity to have a usual hour at all."""

_NEVER, _COUNT, _SUM, _SQUARES, _LOWEST, _HIGHEST, _EXCESS = NEVER, COUNT, SUM, SQUARES, LOWEST, HIGHEST, EXCESS
_MASK = SLOTS - 1
(
    _S_COUNT, _S_SUM, _S_MEAN, _S_MIN, _S_MAX, _S_DEVIATION, _S_RATIO, _S_Z, _S_DISTINCT, _S_FIRST_TIME, _S_EXCESS,
    _S_ROBUST_MEAN, _S_ROBUST_DEVIATION, _S_ROBUST_RATIO, _S_ROBUST_Z, _S_SINCE_LAST, _S_HOUR_DEVIATION,
) = range(len(STATISTICS))  # fmt: skip

_MINUTES = 1440
_COSINES = np.array([math.cos(2 * math.pi * (minute + 0.5) / _MINUTES) for minute in range(_MINUTES)])
_SINES = np.array([math.sin(2 * math.pi * (minute + 0.5) / _MINUTES) for minute in range(_MINUTES)])


@compiled
def fold(
    # the layout
    priors: NDArray[np.float64], widths: NDArray[np.int64], channels: NDArray[np.int64], bitmaps: NDArray[np.int64],
    running: NDArray[np.int64], robust: NDArray[np.int64], blooms: NDArray[np.int64], features: NDArray[np.int64],
    exact: bool, max_age_us: int, clip: float,
    # the records, in order
    entities: NDArray[np.int32], joins: NDArray[np.bool_], times_us: NDArray[np.int64], minutes: NDArray[np.int32],
    numbers: NDArray[np.float64], values: NDArray[np.uint64],
    # what is remembered of each entity, changed in place
    last_us: NDArray[np.int64], r_running: NDArray[np.float64], r_robust: NDArray[np.float64],
    r_buckets: NDArray[np.float32], r_hour: NDArray[np.float32], r_bitmaps: NDArray[np.uint64],
    r_blooms: NDArray[np.uint64],
    # in exact mode, the records of the windows: those of entity e from first[e] to end[e]
    first: NDArray[np.int64], end: NDArray[np.int64], log_us: NDArray[np.int64], log_numbers: NDArray[np.float64],
    log_excess: NDArray[np.float64], log_values: NDArray[np.uint64],
    # the result
    out: NDArray[np.float64],
) -> None:  # fmt: skip
    """Fill `out` (n, f), NaN where there is nothing to say, and bring the entities' rows forward.

    Args:
        priors: As in `Layout`, like all up to `features`.
        exact: Whether windows hold their records (`first` to `log_values`) or buckets (`r_buckets`, `r_bitmaps`).
        max_age_us: Silence after which an entity begins anew; 0 for none.
        clip: Most that one record counts in a robust mean, in units of the mean before it.
        entities: Row of each record's entity, -1 for none, (n,).
        joins: Whether the record joins its entity's history, (n,).
        times_us: Event times in microseconds since the epoch, (n,).
        minutes: Minute of the local day, (n,).
        numbers: Number fields, NaN where missing, (n, v).
        values: Hashes of the values of fields, 0 where missing, (n, c).
        out: Features, (n, f).
    """
    windows, kept, mapped = len(widths), len(channels), len(bitmaps)
    totals, excess = np.zeros(kept), np.zeros(len(robust))
    unions = np.zeros(mapped, np.uint64)
    distinct = np.zeros(mapped)
    seen_before = np.zeros(mapped, np.bool_)
    old, new, steps = np.zeros(windows, np.int64), np.zeros(windows, np.int64), np.zeros(windows, np.int64)
    share = np.zeros(windows)
    # A number's robust mean, and the size below which a mean is too small to measure by.
    robust_of = np.full(len(priors), -1, np.int64)
    for place in range(len(robust)):
        robust_of[robust[place]] = place
    least = np.zeros(len(priors))
    for number in range(len(priors)):
        least[number] = max(LEAST_SHARE * (abs(priors[number, 0]) + priors[number, 1]), 1e-300)

    for i in range(len(entities)):
        for f in range(len(features)):
            out[i, f] = np.nan
        e = entities[i]
        if e < 0:
            continue
        t = times_us[i]
        known = last_us[e] != _NEVER
        if known and t < last_us[e]:
            t = last_us[e]
        if known and max_age_us > 0 and t - last_us[e] > max_age_us:
            known = False
            if joins[i]:
                last_us[e] = _NEVER
                r_running[e] = 0.0
                r_robust[e] = 0.0
                r_buckets[e] = 0.0
                r_hour[e] = 0.0
                r_bitmaps[e] = 0
                r_blooms[e] = 0
                first[e] = end[e]

        # What the windows hold before this record.
        if exact:
            for k in range(kept):
                kind, number, width = channels[k, 0], channels[k, 1], widths[channels[k, 2]]
                total = math.inf if kind == _LOWEST else -math.inf if kind == _HIGHEST else 0.0
                if known:
                    for p in range(first[e], end[e]):
                        if log_us[p] <= t - width:
                            continue
                        x = 1.0 if number < 0 else log_numbers[p, number]
                        if math.isnan(x):
                            continue
                        if kind == _COUNT:
                            total += 1.0
                        elif kind == _SUM:
                            total += x
                        elif kind == _SQUARES:
                            total += (x - priors[number, 0]) ** 2
                        elif kind == _LOWEST:
                            total = min(total, x)
                        elif kind == _HIGHEST:
                            total = max(total, x)
                        else:
                            total += log_excess[p, robust_of[number]]
                totals[k] = total
            for b in range(mapped):
                field, width = bitmaps[b, 0], widths[bitmaps[b, 1]]
                h = values[i, field]
                seen_before[b] = False
                distinct[b] = 0.0
                if known:
                    for p in range(first[e], end[e]):
                        g = log_values[p, field]
                        if log_us[p] <= t - width or g == 0:
                            continue
                        seen_before[b] |= g == h
                        again = False
                        for q in range(first[e], p):
                            again |= log_us[q] > t - width and log_values[q, field] == g
                        distinct[b] += 0.0 if again else 1.0
        else:
            for w in range(windows):
                new[w] = t // widths[w]
                old[w] = last_us[e] // widths[w] if known else new[w]
                steps[w] = new[w] - old[w]
                share[w] = 1.0 - (t - new[w] * widths[w]) / widths[w]  # of the bucket that is being left
            for k in range(kept):
                kind, w = channels[k, 0], channels[k, 2]
                total = math.inf if kind == _LOWEST else -math.inf if kind == _HIGHEST else 0.0
                if known:
                    # From the oldest bucket that the window still touches to the newest.
                    for age in range(_MASK - steps[w], -1, -1):
                        slot = (old[w] - age) & _MASK
                        weight = share[w] if age + steps[w] == _MASK else 1.0
                        x = np.float64(r_buckets[e, k, slot])
                        if kind in (_LOWEST, _HIGHEST):
                            # An empty bucket is 0 and cannot be told from one that holds 0: its sign bit says it.
                            if x == 0.0 and not math.copysign(1.0, x) < 0.0:
                                continue
                            if weight > 0.0:
                                total = min(total, x) if kind == _LOWEST else max(total, x)
                        else:
                            total += weight * x
                totals[k] = total
            for b in range(mapped):
                w = bitmaps[b, 1]
                union = np.uint64(0)
                if known:
                    for age in range(_MASK - steps[w], -1, -1):
                        if age + steps[w] < _MASK or share[w] > 0.0:
                            union |= r_bitmaps[e, b, (old[w] - age) & _MASK]
                unions[b] = union
                h = values[i, bitmaps[b, 0]]
                seen_before[b] = (union >> (h & np.uint64(63))) & np.uint64(1) != 0
                distinct[b] = _linear_count(union)

        for place in range(len(robust)):
            x = numbers[i, robust[place]]
            excess[place] = 0.0
            if not math.isnan(x):
                mean = _robust_mean(r_robust[e, place], priors[robust[place]], known)
                excess[place] = max(0.0, abs(x) / max(abs(mean), least[robust[place]]) - clip)

        # The features. `itself` is the record's own part in a window that includes it.
        for f in range(len(features)):
            code, number, window = features[f, 0], features[f, 1], features[f, 2]
            part, second, third, including = features[f, 3], features[f, 4], features[f, 5], features[f, 6]
            if not known and including == 0:
                continue
            if code == _S_SINCE_LAST:
                out[i, f] = (t - last_us[e]) / 1e6
                continue
            if code == _S_HOUR_DEVIATION:
                out[i, f] = _hours_off(r_hour[e], minutes[i])
                continue
            if code == _S_DISTINCT:
                h = values[i, number]
                found = distinct[part]
                if including and h != 0 and not seen_before[part]:
                    with_it = unions[part] | (np.uint64(1) << (h & np.uint64(63)))
                    found = found + 1.0 if exact else _linear_count(with_it)
                out[i, f] = found
                continue
            if code == _S_FIRST_TIME:
                h = values[i, number]
                if h == 0:
                    continue
                seen = _is_in_bloom(r_blooms[e, part], h) if window < 0 else seen_before[part]
                out[i, f] = 0.0 if seen else 1.0
                continue
            x = 1.0 if number < 0 else numbers[i, number]
            if _S_ROBUST_MEAN <= code <= _S_ROBUST_Z:
                mean = _robust_mean(r_robust[e, part], priors[number], known)
                if code == _S_ROBUST_MEAN:
                    out[i, f] = mean
                elif code == _S_ROBUST_RATIO:
                    out[i, f] = x / max(abs(mean), least[number])
                else:
                    spread = _robust_deviation(r_robust[e, part], mean, priors[number])
                    spread = max(spread, LEAST_SHARE * max(abs(mean), least[number]))
                    out[i, f] = spread if code == _S_ROBUST_DEVIATION else (x - mean) / spread
                continue
            has = including == 1 and not math.isnan(x)
            # Squares are of distances from the prior's mean: of a deviation that is small beside its numbers, float32
            # would keep nothing in their own squares.
            centre = 0.0 if number < 0 else priors[number, 0]
            if code in (_S_MIN, _S_MAX):
                extreme = totals[part]
                if has:
                    extreme = min(extreme, x) if code == _S_MIN else max(extreme, x)
                if not math.isinf(extreme):
                    out[i, f] = extreme
                continue
            if code == _S_EXCESS:
                out[i, f] = totals[part] + (excess[robust_of[number]] if has else 0.0)
                continue
            if window < 0:
                count, total, squares = r_running[e, part, 0], r_running[e, part, 1], r_running[e, part, 2]
                if not known:
                    count, total, squares = 0.0, 0.0, 0.0
            else:
                count = totals[part]
                total = totals[second] if second >= 0 else 0.0
                squares = totals[third] if third >= 0 else 0.0
            if has:
                count, total, squares = count + 1.0, total + x, squares + (x - centre) ** 2
            if code == _S_COUNT:
                out[i, f] = count
            elif code == _S_SUM:
                out[i, f] = total
            elif count > 0.0:
                mean = total / count
                if code == _S_MEAN:
                    out[i, f] = mean
                elif code == _S_RATIO:
                    out[i, f] = x / max(abs(mean), least[number])
                else:
                    variance = max(squares / count - (mean - centre) ** 2, 0.0)
                    if code == _S_DEVIATION:
                        out[i, f] = math.sqrt(variance)
                    else:
                        usual = _usual_deviation(mean, priors[number])
                        variance = (count * variance + PRIOR_RECORDS * usual * usual) / (count + PRIOR_RECORDS)
                        spread = max(math.sqrt(variance), LEAST_SHARE * max(abs(mean), least[number]))
                        out[i, f] = (x - mean) / spread

        if not joins[i]:
            continue

        # The record joins the history.
        if exact:
            p = end[e]
            log_us[p] = t
            for number in range(numbers.shape[1]):
                log_numbers[p, number] = numbers[i, number]
            for place in range(len(robust)):
                log_excess[p, place] = excess[place]
            for field in range(values.shape[1]):
                log_values[p, field] = values[i, field]
            end[e] = p + 1
            longest = np.int64(0)
            for w in range(windows):
                longest = max(longest, widths[w])
            while first[e] <= p and log_us[first[e]] <= t - longest:  # without windows, nothing is held
                first[e] += 1
        else:
            for k in range(kept):
                kind, number, w = channels[k, 0], channels[k, 1], channels[k, 2]
                for step in range(min(steps[w], SLOTS)):
                    r_buckets[e, k, (new[w] - step) & _MASK] = 0.0
                x = 1.0 if number < 0 else numbers[i, number]
                if math.isnan(x):
                    continue
                slot = new[w] & _MASK
                before = r_buckets[e, k, slot]
                if kind == _COUNT:
                    r_buckets[e, k, slot] = before + np.float32(1.0)
                elif kind == _SUM:
                    r_buckets[e, k, slot] = before + np.float32(x)
                elif kind == _SQUARES:
                    r_buckets[e, k, slot] = before + np.float32((x - priors[number, 0]) ** 2)
                elif kind == _EXCESS:
                    r_buckets[e, k, slot] = before + np.float32(excess[robust_of[number]])
                else:
                    kept_value = np.float32(x)
                    if kept_value == 0.0:
                        kept_value = np.float32(-0.0)
                    if not (before == 0.0 and not math.copysign(1.0, before) < 0.0):
                        kept_value = min(before, kept_value) if kind == _LOWEST else max(before, kept_value)
                    r_buckets[e, k, slot] = kept_value
            for b in range(mapped):
                w = bitmaps[b, 1]
                for step in range(min(steps[w], SLOTS)):
                    r_bitmaps[e, b, (new[w] - step) & _MASK] = 0
                h = values[i, bitmaps[b, 0]]
                if h != 0:
                    r_bitmaps[e, b, new[w] & _MASK] |= np.uint64(1) << (h & np.uint64(63))
        for place in range(len(running)):
            x = 1.0 if running[place] < 0 else numbers[i, running[place]]
            if math.isnan(x):
                continue
            if r_running[e, place, 0] >= HALF_AFTER:
                for part in range(3):
                    r_running[e, place, part] *= 0.5
            r_running[e, place, 0] += 1.0
            r_running[e, place, 1] += x
            centre = 0.0 if running[place] < 0 else priors[running[place], 0]
            r_running[e, place, 2] += (x - centre) ** 2
        for place in range(len(robust)):
            number = robust[place]
            x = numbers[i, number]
            if math.isnan(x):
                continue
            mean = _robust_mean(r_robust[e, place], priors[number], True)
            limit = clip * max(abs(mean), least[number])
            clipped = min(max(x, -limit), limit)
            if r_robust[e, place, 0] >= HALF_AFTER:
                for part in range(3):
                    r_robust[e, place, part] *= 0.5
            r_robust[e, place, 0] += 1.0
            r_robust[e, place, 1] += clipped
            r_robust[e, place, 2] += (clipped - mean) * (clipped - mean)
        if r_hour.shape[1] > 0:
            if r_hour[e, 2] >= HALF_AFTER:
                for part in range(3):
                    r_hour[e, part] *= np.float32(0.5)
            r_hour[e, 0] += np.float32(_COSINES[minutes[i]])
            r_hour[e, 1] += np.float32(_SINES[minutes[i]])
            r_hour[e, 2] += np.float32(1.0)
        for m in range(len(blooms)):
            if values[i, blooms[m]] != 0:
                _put_in_bloom(r_blooms[e, m], values[i, blooms[m]])
        last_us[e] = t


@compiled
def _robust_mean(row: NDArray[np.float64], prior: NDArray[np.float64], known: bool) -> np.float64:
    """Mean of the clipped records and of the prior, which counts for two."""
    if not known:
        return prior[0]  # type: ignore[no-any-return]
    return (row[1] + PRIOR_RECORDS * prior[0]) / (row[0] + PRIOR_RECORDS)  # type: ignore[no-any-return]


@compiled
def _robust_deviation(row: NDArray[np.float64], mean: np.float64, prior: NDArray[np.float64]) -> float:
    """Deviation of the clipped records from the mean before each, with the prior counting for two."""
    usual = _usual_deviation(mean, prior)
    return math.sqrt((row[2] + PRIOR_RECORDS * usual * usual) / (row[0] + PRIOR_RECORDS))


@compiled
def _usual_deviation(mean: np.float64, prior: NDArray[np.float64]) -> np.float64:
    """The prior's deviation, in proportion to the entity's mean where that is the smaller of the two."""
    if abs(prior[0]) <= LEAST_SHARE * prior[1]:
        return prior[1]  # type: ignore[no-any-return]  # numbers around zero have no proportion
    return prior[1] * min(1.0, abs(mean) / abs(prior[0]))  # type: ignore[no-any-return]


@compiled
def _hours_off(row: NDArray[np.float32], minute: int) -> float:
    """Hours between a minute of the day and the usual one, 0 to 12; NaN where no hour is usual."""
    c, s, weight = np.float64(row[0]), np.float64(row[1]), np.float64(row[2])
    if weight <= 0.0 or math.sqrt(c * c + s * s) < USUAL_HOUR * weight:
        return math.nan
    angle = math.atan2(_SINES[minute] * c - _COSINES[minute] * s, _COSINES[minute] * c + _SINES[minute] * s)
    return abs(angle) * 12.0 / math.pi


@compiled
def _linear_count(bitmap: np.uint64) -> float:
    """About how many different values set the bits of a map of 64.

    Source: Whang, Vander-Zanden and Taylor, "A Linear-Time Probabilistic Counting Algorithm for Database
        Applications", ACM Transactions on Database Systems 15, 1990.
    """
    zeros = 64 - _ones(bitmap)
    return 64.0 * math.log(64.0 / max(zeros, 1)) if zeros < 64 else 0.0


@compiled
def _ones(word: np.uint64) -> int:
    """How many bits of a word are set."""
    count = 0
    rest = word
    while rest != np.uint64(0):
        rest &= rest - np.uint64(1)
        count += 1
    return count


@compiled
def _is_in_bloom(words: NDArray[np.uint64], value: np.uint64) -> bool:
    """Whether a value was seen in the present generation or the one before; a new one may be taken for a seen one.

    Source: Bloom, "Space/Time Trade-offs in Hash Coding with Allowable Errors", Communications of the ACM 13, 1970.
    """
    present, former = True, True
    for turn in range(4):
        bit = (value >> np.uint64(7 * turn)) & np.uint64(127)
        word, place = np.int64(bit >> np.uint64(6)), bit & np.uint64(63)
        present &= (words[word] >> place) & np.uint64(1) != 0
        former &= (words[word + 2] >> place) & np.uint64(1) != 0
    return present or former


@compiled
def _put_in_bloom(words: NDArray[np.uint64], value: np.uint64) -> None:
    """Remember a value; a generation that is half full becomes the one before, and that one is forgotten."""
    if _ones(words[0]) + _ones(words[1]) >= 64:
        words[2], words[3] = words[0], words[1]
        words[0], words[1] = np.uint64(0), np.uint64(0)
    for turn in range(4):
        bit = (value >> np.uint64(7 * turn)) & np.uint64(127)
        words[np.int64(bit >> np.uint64(6))] |= np.uint64(1) << (bit & np.uint64(63))
