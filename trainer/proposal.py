"""A stream definition proposed from a sample of records, each choice with its reason; a person has the last word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.stream import HistoryFeature, StreamDefinition
from trainer.columns import Column
from trainer.errors import DataFileError

_LABEL_WORDS = frozenset({
    "fraud", "fraudulent", "isfraud", "label", "labels", "target", "anomaly", "anomalous", "anomalies",
    "outlier", "outliers", "chargeback", "attack", "intrusion", "isanomaly", "isoutlier",
})  # fmt: skip
_LABEL_ALONE = frozenset({"class", "y"})
_ANOMALOUS_WORDS = re.compile(r"fraud|anomal|outlier|attack|intrusion|bad|abnormal|malicious|true|yes", re.IGNORECASE)
_NORMAL_WORDS = re.compile(r"^(not|non|no|legit|normal|benign|genuine|good|ok|false|none)", re.IGNORECASE)

_ID_WORDS = frozenset({
    "id", "uuid", "guid", "no", "nr", "num", "number", "reference", "ref", "key", "code", "token", "hash",
})  # fmt: skip
# The likelier a history of its own is worth keeping, the earlier.
_ENTITY_WORDS = (
    "account", "customer", "client", "user", "member", "payer", "sender", "holder", "subscriber", "card",
    "cardholder", "device", "sensor", "machine", "host", "vehicle", "patient", "employee", "merchant",
    "terminal", "store", "shop", "receiver", "payee", "destination",
)  # fmt: skip
_SENSITIVE_WORDS = frozenset({
    "pan", "iban", "cvv", "cvc", "email", "mail", "phone", "mobile", "ssn", "passport", "address", "street",
    "surname", "firstname", "lastname", "birth", "birthday", "dob", "password", "secret", "ip",
})  # fmt: skip
_SENSITIVE_PAIRS = (
    ("card", "number"), ("card", "no"), ("cc", "num"), ("cc", "number"), ("first", "name"), ("last", "name"),
    ("customer", "name"), ("full", "name"), ("user", "name"), ("holder", "name"), ("account", "number"),
)  # fmt: skip
_TIME_WORDS = frozenset({
    "time", "timestamp", "datetime", "date", "ts", "at", "when", "created", "occurred", "epoch", "unixtime",
})  # fmt: skip

_EPOCHS = {"epoch_s": (1e9, 4.2e9), "epoch_ms": (1e12, 4.2e12)}  # 2001 to 2103

MIN_COUNT = 20
"""Occurrences below which a category shares a code with other rare ones, where the sample is large enough."""

MOST_CATEGORIES = 100
"""Categories that may have a code of their own."""

_AMOUNT_WORDS = frozenset({"amount", "amt", "value", "price", "total", "sum", "cost", "fare", "spend"})
_MANY_AMOUNTS = 20
_MOST_FIRST_TIMES = 2
#: Windows of histories, and how many hours a sample must span for each: the data may go on behind the sample.
_WINDOWS = (("1d", 48.0), ("7d", 7 * 24.0), ("30d", 14 * 24.0))

#: A number whose top per mille is this many times its median spans too many magnitudes to be read as it is.
_MAGNITUDES = 1_000

#: Alerts that the sample must hold at the proposed threshold: a quarter of the records calibrate it.
_LEAST_ALERTS = 20


@dataclass(frozen=True)
class Proposal:
    """A stream definition and why it is as it is.

    Attributes:
        stream: The definition.
        reasons: Lines of comment by what they stand above: a top-level key, "[time]", or a feature's field.
        left_out: Fields that are not used, each with its reason.
        looked_at: Records that the proposal rests on.
    """

    stream: StreamDefinition
    reasons: dict[str, list[str]]
    left_out: dict[str, str]
    looked_at: int

    def to_toml(self) -> str:
        """The definition as TOML with its reasons as comments; `StreamDefinition.from_toml` reads it unchanged."""
        lines = [
            f"# Proposed from the first {self.looked_at:,} records. Read the reasons, change what you know better,",
            "# then: offbeat train DATA --stream stream.toml --models models",
        ]
        if self.left_out:
            lines += ["#", "# Left out:", *(f"#   {_plain(path)}: {why}" for path, why in self.left_out.items())]
        lines.append("")
        features = iter(self.stream.feature)
        for line in self.stream.to_toml().splitlines():
            place = line if line.startswith("[") else line.split(" = ")[0] if not _in_table(lines) else ""
            if line == "[[feature]]":
                place = next(features).label
            lines += [f"# {reason}" for reason in self.reasons.get(place, [])]
            lines.append(line)
        return "\n".join(lines) + "\n"


def _in_table(lines: Sequence[str]) -> bool:
    return any(line.startswith("[") for line in lines)


@dataclass
class _Draft:
    """What has been decided so far."""

    content: dict[str, Any]
    reasons: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def say(self, place: str, *reasons: str) -> None:
        self.reasons.setdefault(place, []).extend(reasons)


def propose(columns: Sequence[Column], records: int, name: str = "records") -> Proposal:
    """Propose what a record of a stream is.

    Args:
        columns: The fields of a sample of records, the first ones of the stream in order.
        records: How many were looked at.
        name: Name of the detector; characters that a name may not have are replaced.

    Raises:
        DataFileError: No field can be a feature.
    """
    draft = _Draft({"name": re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:100] or "records"})
    paths = [column.path for column in columns]
    columns = [column for column in columns if _usable(column, paths, draft)]
    time = _choose_time(columns, draft)
    label = _choose_label(columns, draft)
    _leave_out_leaks(columns, label, draft)
    _find_sensitive(columns, draft)
    _choose_id(columns, draft)
    _choose_key(columns, draft)
    _choose_features(columns, time, draft)
    if not draft.content["feature"]:
        raise DataFileError(
            "no field can be a feature: "
            + "; ".join(f"{path} {why}" for path, why in list(draft.left_out.items())[:10])
            + "; write a stream definition by hand if one of them should be"
        )
    _choose_threshold(time, records, draft)
    _choose_echo(time, draft)
    return Proposal(StreamDefinition.model_validate(draft.content), draft.reasons, draft.left_out, records)


def _usable(column: Column, paths: Sequence[str], draft: _Draft) -> bool:
    inside = next((path for path in paths if path.startswith(f"{column.path}.")), None)
    if column.kind == "empty" and inside is not None:
        return False  # an object that some records lack: the fields inside it stand for it
    if column.kind == "empty":
        draft.left_out[column.path] = "has no value in any record"
    elif column.kind == "other":
        draft.left_out[column.path] = "holds lists or mixed values, not numbers, text or times"
    elif inside is not None:
        draft.left_out[column.path] = f"is a value in some records and an object in others, with {_plain(inside)} in it"
    return column.path not in draft.left_out


# --- time ---


def _choose_time(columns: Sequence[Column], draft: _Draft) -> Column | None:
    """The column of event times as UTC, or None; numbers are read as epoch seconds or milliseconds."""
    best: tuple[float, Column, str] | None = None
    for column in columns:
        form = "iso8601" if column.kind == "time" else _epoch(column)
        if form is None or column.count < 0.95 * len(column.values) or _named_like_personal_data(column):
            continue
        named = bool(column.words & _TIME_WORDS)
        rank = (
            2.0 * (column.kind == "time") + named + _rising(column) + len(column.distinct[0]) / len(column.values) / 9
        )
        if best is None or rank > best[0]:
            best = rank, column, form
    if best is None:
        draft.say("name", "No field is plainly an event time: training then splits the records in the order given.")
        return None
    _, column, form = best
    times = _as_times(column, form)
    draft.content["time"] = {"field": column.path, "format": form}
    draft.taken.add(column.path)
    how = {"iso8601": "times", "epoch_s": "whole seconds since 1970", "epoch_ms": "milliseconds since 1970"}[form]
    rising = _rising(column)
    order = "never goes back" if rising == 1 else f"rises in {rising:.0%} of the steps"
    draft.say("[time]", f"Holds {how}, {_day(times.min())} to {_day(times.max())}, and {order}.")
    if column.naive:
        draft.say("[time]", 'The times have no offset and are read as UTC; if they are local, add zone = "Area/City".')
    return Column(
        column.path, "time", np.where(column.known, _scattered(column, times), np.datetime64("NaT", "us")),
        column.known, column.distinct, naive=column.naive,
    )  # fmt: skip


def _scattered(column: Column, times: NDArray[Any]) -> NDArray[Any]:
    spread = np.full(len(column.values), np.datetime64("NaT", "us"))
    spread[column.known] = times
    return spread


def _epoch(column: Column) -> str | None:
    """The epoch format that a column of numbers is plainly written in, by its name and size; None otherwise."""
    if column.kind != "number" or not column.words & _TIME_WORDS or column.in_strings:
        return None
    for form, (low, high) in _EPOCHS.items():
        if np.all((column.values_known >= low) & (column.values_known <= high)):
            return form
    return None


def _as_times(column: Column, form: str) -> NDArray[np.datetime64]:
    if column.kind == "time":
        return column.values_known
    micros = column.values_known * (1e6 if form == "epoch_s" else 1e3)
    times: NDArray[np.datetime64] = micros.astype(np.int64).view("datetime64[us]")
    return times


def _rising(column: Column) -> float:
    """Share of the steps from one known value to the next that do not go down."""
    values = column.values_known
    return float(np.mean(values[1:] >= values[:-1])) if len(values) > 1 else 1.0


def _day(time: np.datetime64) -> str:
    return str(np.datetime_as_string(time, unit="D"))


# --- label and what gives it away ---


def _choose_label(columns: Sequence[Column], draft: _Draft) -> NDArray[np.bool_] | None:
    """Which sampled records are known anomalies, or None where no column is plainly a label."""
    candidates = [column for column in columns if column.path not in draft.taken]
    named = [column for column in candidates if _named_like_a_label(column)]
    judged = [(column, marks) for column in named if (marks := _anomalous_values(column)) is not None]
    why = "is named like a label"
    if not judged:
        flags = [column for column in candidates if column.words & {"is", "has"} and column.kind in ("number", "truth")]
        judged = [
            (column, marks)
            for column in flags
            if (marks := _anomalous_values(column)) is not None and _share(column, marks) <= 0.02
        ]
        why = "is a flag that is rarely set: check that it is a label, and not a feature"
    if not judged:
        return None
    column, marks = min(judged, key=lambda pair: (len(pair[0].distinct[0]), -len(pair[0].words & _LABEL_WORDS)))
    anomalous = _is_one_of(column, marks)
    draft.content["label"] = {"field": column.path, "anomalous": marks}
    draft.taken.add(column.path)
    found = f"{int(anomalous.sum()):,} of {column.count:,} records ({anomalous.sum() / column.count:.2%}) are anomalous"
    draft.say("[label]", f"{_plain(column.path)} {why}; {found}.")
    draft.say("[label]", "Used to keep known anomalies out of training and to evaluate, never to score.")
    if anomalous.sum() > 0.5 * column.count:
        draft.say("[label]", "More than half are anomalous: check that `anomalous` names the right values.")
    return anomalous


def _named_like_a_label(column: Column) -> bool:
    return bool(column.words & _LABEL_WORDS) or column.path.lower() in _LABEL_ALONE


def _anomalous_values(column: Column) -> list[Any] | None:
    """The values of a column with few of them that mean an anomaly, or None where that is not plain."""
    values = column.distinct[0]
    if column.kind == "truth":
        return [True]
    if column.kind == "number" and set(values.tolist()) <= {0.0, 1.0} and column.count:
        return [1]
    if column.kind == "number" and set(values.tolist()) == {-1.0, 1.0}:
        return [-1]  # scikit-learn's way
    if column.kind == "text" and 2 <= len(values) <= 20:
        texts = [str(value) for value in values]
        marks = [text for text in texts if _ANOMALOUS_WORDS.search(text) and not _NORMAL_WORDS.match(text)]
        if not marks and any(_NORMAL_WORDS.match(text) for text in texts):
            marks = [text for text in texts if not _NORMAL_WORDS.match(text)]
        return sorted(marks) if 0 < len(marks) < len(texts) else None
    return None


def _is_one_of(column: Column, marks: Sequence[Any]) -> NDArray[np.bool_]:
    return np.array([known and value in marks for value, known in zip(column.values, column.known, strict=True)], bool)


def _share(column: Column, marks: Sequence[Any]) -> float:
    return float(_is_one_of(column, marks).sum() / max(column.count, 1))


def _leave_out_leaks(columns: Sequence[Column], anomalous: NDArray[np.bool_] | None, draft: _Draft) -> None:
    """Leave out what is known only once the label is: a stream that is being judged does not have it."""
    label = draft.content.get("label", {}).get("field")
    for column in columns:
        if column.path in draft.taken:
            continue
        if anomalous is not None and _follows(column, anomalous):
            shown = "missing" if not column.known[~anomalous].any() else "always the same"
            draft.left_out[column.path] = (
                f"is {shown} in normal records and differs in anomalous ones: it leaks {label}"
            )
        elif _named_like_a_label(column):
            draft.left_out[column.path] = "is named like a label: as a feature it would give the answer away"


def _follows(column: Column, anomalous: NDArray[np.bool_]) -> bool:
    """The column has one value (or none) in all normal records, and another in at least half of the anomalous ones."""
    if anomalous.sum() < 2 or anomalous.all():
        return False
    codes = np.full(len(column.values), -1)
    found = column.values_known
    codes[column.known] = np.unique(found.astype(str) if found.dtype == object else found, return_inverse=True)[1]
    usual = codes[~anomalous]
    return bool((usual == usual[0]).all() and (codes[anomalous] != usual[0]).mean() >= 0.5)


# --- who and which ---


def _find_sensitive(columns: Sequence[Column], draft: _Draft) -> None:
    found = [
        column.path for column in columns if column.path not in draft.left_out and _named_like_personal_data(column)
    ]
    if found:
        draft.content["sensitive"] = found
        draft.say(
            "sensitive", "Named like personal data; their values are never shown, whatever else they are used for."
        )


def _named_like_personal_data(column: Column) -> bool:
    pairs = any(column.words.issuperset(pair) for pair in _SENSITIVE_PAIRS)
    return pairs or bool(column.words & _SENSITIVE_WORDS)


def _named_like_an_id(column: Column) -> bool:
    """The name ends like that of an identifier: `customer_id`, `orderId`, `TXID`; not `num_items` or `paid`."""
    last = column.name_words[-1] if column.name_words else ""
    return last in _ID_WORDS or re.fullmatch(r"(tx|trans|transaction|event|record|order|session)id", last) is not None


def _choose_id(columns: Sequence[Column], draft: _Draft) -> None:
    for column in columns:
        unique = column.count == len(column.values) and len(column.distinct[0]) >= 0.999 * column.count
        plain = column.kind == "text" or column.whole
        if column.path in draft.taken or not (unique and plain and _named_like_an_id(column)):
            continue
        if column.path in draft.content.get("sensitive", ()):
            continue
        draft.content["id"] = column.path
        draft.taken.add(column.path)
        exactly = len(column.distinct[0]) == column.count
        draft.say("id", "Has a different value in every record." if exactly else "Differs in nearly every record.")
        return


def _choose_key(columns: Sequence[Column], draft: _Draft) -> None:
    """The entity: a field named like one whose values come back, and of which there are many."""
    ranked = []
    for column in columns:
        names = [word for word in _ENTITY_WORDS if word in column.words]
        other = column.words - _ID_WORDS - set(names)
        nested = "." in column.path and other <= frozenset(_ENTITY_WORDS)
        if (
            not names
            or (other and not nested)
            or column.path in draft.taken
            or column.path in draft.left_out
            or column.path in draft.content.get("sensitive", ())
            or not (column.kind == "text" or column.whole)
        ):
            continue
        entities = len(column.distinct[0])
        if entities >= 10 and column.count / entities >= 1.5:
            ranked.append((_ENTITY_WORDS.index(names[0]), column.path, entities, column.count / entities))
    if not ranked:
        return
    ranked.sort()
    _, path, entities, each = ranked[0]
    draft.content["key"] = path
    draft.taken.add(path)
    draft.say("key", f"{entities:,} different values, each in {each:.1f} records on average: whom a record belongs to.")
    if len(ranked) > 1:
        draft.say("key", f"It could also be {', '.join(_plain(other) for _, other, _, _ in ranked[1:])}.")


# --- features ---


def _choose_features(columns: Sequence[Column], time: Column | None, draft: _Draft) -> None:
    features: list[dict[str, Any]] = []
    for column in columns:
        if column.path in draft.taken or column.path in draft.left_out:
            continue
        feature = _feature(column, draft)
        if feature is not None:
            features.append(feature)
    amount = _amount(columns, features)
    if time is not None:
        features += _time_features(time, draft)
        if amount is not None and "key" in draft.content:
            features += _history_features(amount, features, time, draft)
    draft.content["feature"] = features


def _feature(column: Column, draft: _Draft) -> dict[str, Any] | None:
    distinct = len(column.distinct[0])
    if column.kind == "time" or _epoch(column) is not None:
        draft.left_out[column.path] = "is a second time: add a time feature if its hour or weekday matters"
    elif distinct == 1 and column.count == len(column.values):
        draft.left_out[column.path] = "is the same in all records"
    elif column.path in draft.content.get("sensitive", ()):
        draft.left_out[column.path] = "is named like personal data: a feature only if you say so"
    elif column.kind == "number" and not (_named_like_an_id(column) and column.whole):
        if column.whole and distinct <= 10:
            return _category(column, draft, "only whole numbers, and few")
        return _number(column, draft)
    else:
        return _category(column, draft, "")
    return None


def _number(column: Column, draft: _Draft) -> dict[str, Any]:
    values = column.values_known
    feature: dict[str, Any] = {"kind": "number", "field": column.path}
    draft.say(
        column.path, f"From {values.min():g} to {values.max():g}, half below {np.median(values):g}{_gaps(column)}."
    )
    # The encoder ranks numbers, so that a skewed one needs no logarithm; on simulated card payments it lowered average
    # precision from .60 to .46. Only over many magnitudes would a value beyond the range dwarf all else.
    middle, top = float(np.median(values)), float(np.quantile(values, 0.999))
    if values.min() >= 0 and top > _MAGNITUDES * max(middle, float(values[values > 0].min(initial=np.inf))):
        feature["log"] = True
        draft.say(column.path, f"Never negative, and one in a thousand is above {top:,.4g}: hence log.")
    if column.in_strings:
        feature["from_string"] = True
        draft.say(column.path, "The numbers are inside strings: hence from_string.")
    return feature


def _category(column: Column, draft: _Draft, why: str) -> dict[str, Any] | None:
    values, counts = column.distinct
    min_count = min(MIN_COUNT, max(2, len(column.values) // 500))
    frequent = counts >= min_count
    covered = counts[frequent][:MOST_CATEGORIES].sum() / column.count
    if frequent.sum() > MOST_CATEGORIES or covered < 0.9:
        kind = "an identifier" if _named_like_an_id(column) else "text" if column.kind == "text" else "a code"
        why_not = "too many for a category" if len(values) > MOST_CATEGORIES else "too few records with each of them"
        draft.left_out[column.path] = f"is {kind} with {len(values):,} different values: {why_not}"
        return None
    draft.say(column.path, f"{len(values):,} different values{', ' + why if why else ''}{_gaps(column)}.")
    feature: dict[str, Any] = {"kind": "category", "field": column.path}
    if min_count != MIN_COUNT:
        feature["min_count"] = min_count
        draft.say(column.path, f"The sample is small: a value needs {min_count} records for a code of its own.")
    return feature


def _gaps(column: Column) -> str:
    missing = 1 - column.count / len(column.values)
    return f"; missing in {missing:.1%} of the records" if missing > 0 else ""


def _time_features(time: Column, draft: _Draft) -> list[dict[str, Any]]:
    times = time.values_known
    span_h = (times.max() - times.min()) / np.timedelta64(1, "h")
    if span_h < 48:
        draft.left_out["hour and weekday"] = f"the sample spans {span_h:.1f} hours: too few days to learn from"
        return []
    # The network learns from the older half or so, and from less where histories need a past: a weekday that it met
    # once or never would look strange for ever.
    parts = ["hour", "weekday"] if span_h >= 28 * 24 else ["hour"]
    what = "hour and weekday" if len(parts) == 2 else "the hour (the sample spans too few weeks for the weekday)"
    draft.say(time.path, f"{what[0].upper()}{what[1:]} as cycles, in the zone of [time].")
    return [{"kind": "time", "field": time.path, "parts": parts}]


# --- what an entity did before ---


def _amount(columns: Sequence[Column], features: Sequence[dict[str, Any]]) -> Column | None:
    """The number that says how much: one named like an amount, else the only number; never negative, and varying."""
    numbers = {feature["field"] for feature in features if feature["kind"] == "number"}
    fit = [c for c in columns if c.path in numbers and c.values_known.min() >= 0 and len(c.distinct[0]) > _MANY_AMOUNTS]
    named = [column for column in fit if column.words & _AMOUNT_WORDS]
    return named[0] if named else fit[0] if len(fit) == len(numbers) == 1 else None


def _history_features(
    amount: Column, features: Sequence[dict[str, Any]], time: Column, draft: _Draft
) -> list[dict[str, Any]]:
    """What of an entity's past tells its odd records: measured on the Fraud Detection Handbook's payments."""
    times = _as_times(time, _epoch(time) or "")
    span_h = (times.max() - times.min()) / np.timedelta64(1, "h")
    windows = [window for window, least_h in _WINDOWS if span_h >= least_h]
    if not windows:
        draft.left_out["history of the entity"] = f"the sample spans {span_h:.1f} hours: too few to have a past"
        return []
    found: list[dict[str, Any]] = []

    def add(statistic: str, why: str, **keys: Any) -> None:
        content = {"kind": "history", "statistic": statistic, **keys}
        draft.say(HistoryFeature.model_validate(content).label, why)
        found.append(content)

    of = amount.path
    own = next(feature for feature in features if feature["field"] == of)
    if amount.count == len(amount.values):
        own["required"] = True
        draft.say(of, "Never missing: hence required, so that the histories below count records and amounts at once.")
    if not own.get("log"):
        found.append({**own, "name": f"{of}.log", "log": True})
        draft.say(
            f"{of}.log",
            "The same as logarithm: both agree as far as normal records reach and part beyond, so that what is larger",
            "than all of them stands out.",
        )
    # Left out, as they only added noise there: the robust mean and deviation as such, how many records in 30 days, and
    # the time since the last one.
    add("robust_ratio", "How many times the entity's own mean, which no single odd record can drag.", of=of)
    add("robust_z", "The same in deviations of its own.", of=of)
    for window in windows[1:]:
        add("z", f"How far from its mean of {window}, itself included.", of=of, window=window, includes_self=True)
    for window in windows[:2]:
        add("sum", f"How much in {window}, itself included.", of=of, window=window, includes_self=True)
    for window in windows[:2]:
        add("count", f"How many records in the {window} before.", window=window)
    for window in ("1d", "3d", "14d")[: len(windows)]:
        add("excess", f"How much was odd in the {window} before.", of=of, window=window)
    add("hour_deviation", "Hours from the entity's usual time of day.")
    categories = [feature["field"] for feature in features if feature["kind"] == "category"]
    for path in categories[:_MOST_FIRST_TIMES]:
        add("first_time", f"Whether the entity never had this {_plain(path)} before.", of=path)
    return found


# --- threshold and echo ---


def _choose_threshold(time: Column | None, records: int, draft: _Draft) -> None:
    times = None if time is None else time.values_known
    span_days = 0.0 if times is None else float((times.max() - times.min()) / np.timedelta64(1, "D"))
    per_day = records / span_days if span_days > 0 else 0.0
    budget = int(np.clip(per_day * 0.005, 1, 50))
    if span_days >= 1 and budget * span_days >= _LEAST_ALERTS:
        draft.content["threshold"] = {"alert_budget": f"{budget}/day"}
        draft.say("[threshold]", f"About {per_day:,.0f} records a day. How many false alarms a day can people look at?")
    else:
        draft.content["threshold"] = {"false_alarm_rate": false_alarm_rate_for(records)}
        draft.say("[threshold]", "Share of normal records that may raise an alert; with more data, state a lower one.")


def false_alarm_rate_for(records: int) -> float:
    """A rate that the held-out part of so many records can resolve: about 20 of all are above it, 0.001 to 0.2."""
    return float(f"{np.clip(_LEAST_ALERTS / max(records, 1), 0.001, 0.2):.1g}")


def _choose_echo(time: Column | None, draft: _Draft) -> None:
    shown = [draft.content.get("id"), draft.content.get("key"), time.path if time is not None else None]
    draft.content["echo"] = [path for path in shown if path is not None]
    if draft.content["echo"]:
        draft.say("echo", "The fields that an alert repeats; add what its readers need and may see.")
    else:
        del draft.content["echo"]


def _plain(path: str) -> str:
    """A field's name fit for a comment: on one line, whatever it is called."""
    return "".join(c if c.isprintable() else "?" for c in path)
