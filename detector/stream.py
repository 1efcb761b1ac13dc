"""The stream definition: what a record of one stream is, in one TOML file; it knows nothing of Kafka or files."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, Field, PositiveInt, ValidationError, field_validator, model_validator

from detector.definition_parts import Closed, span_is_readable, span_us
from detector.errors import StreamDefinitionError
from detector.suppression_rules import SUPPRESSION_RULES, EntityRule, SuppressionRule

TimeFormat = Literal["iso8601", "epoch_s", "epoch_ms"]
TimePart = Literal["hour", "weekday"]

Statistic = Literal[
    "count", "sum", "mean", "min", "max", "deviation", "ratio", "z", "distinct", "first_time", "excess",
    "robust_mean", "robust_deviation", "robust_ratio", "robust_z", "since_last", "hour_deviation",
]  # fmt: skip
"""What a history feature says of an entity's own records; docs/stream.md says what each one is."""

DEEPEST = 64
"""Deepest nesting of a record that is read."""

ALL = "all"
"""The window without an end, in which old records are slowly forgotten."""

OF_NUMBERS: frozenset[Statistic] = frozenset(
    {"sum", "mean", "min", "max", "deviation", "ratio", "z", "excess",
     "robust_mean", "robust_deviation", "robust_ratio", "robust_z"}
)  # fmt: skip
"""Statistics of a number; it is `of` that number."""

OF_VALUES: frozenset[Statistic] = frozenset({"distinct", "first_time"})
"""Statistics of the values of a field, whatever they are."""

_ONLY_ALL: frozenset[Statistic] = frozenset(
    {"robust_mean", "robust_deviation", "robust_ratio", "robust_z", "since_last", "hour_deviation"}
)
_ONLY_BOUNDED: frozenset[Statistic] = frozenset({"min", "max", "distinct", "excess"})
_MAY_INCLUDE: frozenset[Statistic] = frozenset(
    {"count", "sum", "mean", "min", "max", "deviation", "ratio", "z", "distinct", "excess"}
)
_HEAVY: frozenset[Statistic] = frozenset(
    {"count", "sum", "mean", "min", "max", "deviation", "ratio", "distinct", "excess",
     "robust_mean", "robust_deviation", "robust_ratio", "since_last"}
)  # fmt: skip

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_BUDGET = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*/\s*(hour|day|week)\s*")
_DAYS = {"hour": 1 / 24, "day": 1.0, "week": 7.0}


def _known_zone(zone: str) -> str:
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # a name is a path: of a folder, or too long
        raise ValueError(
            f"{zone!r} is not a known time zone: give an IANA name such as UTC or Europe/Berlin"
        ) from error
    return zone


class TimeField(Closed):
    """The event time of a record."""

    field: str = Field(min_length=1, description="Path of the field that holds the time.")
    format: TimeFormat = Field("iso8601", description="How the time is written.")
    zone: str = Field("UTC", description="Zone of times without an offset, and of the features hour and weekday.")
    max_ahead: str = Field(
        "1d",
        description="A record this much newer than its message is rejected where history is kept: it would stop time.",
    )
    arrival: str | None = Field(
        None,
        min_length=1,
        description="Field with the time at which a file's record arrived, in the place of a message's timestamp.",
    )

    _zone = field_validator("zone")(_known_zone)
    _spans = field_validator("max_ahead")(span_is_readable)


class LabelField(Closed):
    """Which records are known anomalies: they are kept out of training and used to evaluate.

    They take part in scores only where a head is asked for, which learns from them.
    """

    field: str = Field(min_length=1, description="Path of the field that holds the label.")
    anomalous: tuple[bool | int | str, ...] = Field(
        (1, True), min_length=1, description="Values that mark a known anomaly; all others mean normal."
    )
    delay: str | None = Field(
        None,
        description="How long after its event time a label is known: a younger one teaches no head. Needs [time].",
    )

    _spans = field_validator("delay")(span_is_readable)

    @property
    def delay_us(self) -> int:
        """`delay` in microseconds, 0 where labels are known at once."""
        return 0 if self.delay is None else span_us(self.delay)


class ThresholdSetting(Closed):
    """How often normal records may be called anomalous: state one of the three; and whether that follows drift."""

    alert_budget: str | None = Field(
        None,
        description='Expected alerts on normal records, such as "50/day", at the event rate of the calibration span; '
        "an expectation before suppression, not a cap.",
    )
    false_alarm_rate: float | None = Field(
        None, gt=0, lt=1, description="Share of normal records that may score above the threshold."
    )
    one_in: float | None = Field(
        None, gt=1, description="One normal record in so many may score above the threshold: 20000 for a rate of 5e-5."
    )
    mode: Literal["fixed", "online"] = Field(
        "fixed", description="fixed: the score that calibration set; online: it follows where normal scores drift."
    )
    window: int = Field(
        50_000, ge=5_000, description="Latest records of a partition whose scores an online threshold follows."
    )

    @field_validator("alert_budget")
    @classmethod
    def _budget_is_readable(cls, value: str | None) -> str | None:
        match = _BUDGET.fullmatch(value or "1/day")
        if match is None or float(match[1]) <= 0:
            raise ValueError(f'{value!r} is not an alert budget: write a number and a period, such as "50/day"')
        return value

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        ways = zip(("alert_budget", "false_alarm_rate", "one_in"), self.promise, strict=True)
        stated = [name for name, value in ways if value is not None]
        if len(stated) > 1:
            raise ValueError(f"{' and '.join(stated)} state the same thing twice: keep the one that you think in")
        return self

    @property
    def promise(self) -> tuple[str | None, float | None, float | None]:
        """What is stated, whichever of the three ways."""
        return self.alert_budget, self.false_alarm_rate, self.one_in

    @property
    def budget_per_day(self) -> float | None:
        """The alert budget in alerts a day, or None where the threshold is stated as a rate."""
        if self.alert_budget is None:
            return None
        match = _BUDGET.fullmatch(self.alert_budget)
        assert match is not None  # noqa: S101 - validated above
        return float(match[1]) / _DAYS[match[2]]


class _Feature(Closed):
    field: str = Field(min_length=1, description="Path of the field; dots reach into nested objects.")
    name: str = Field("", description="Name in alerts and reports; the field's path unless given.")
    required: bool = Field(False, description="A record without it is rejected instead of flagged as missing.")

    @property
    def label(self) -> str:
        """The name that people see."""
        return self.name or self.field


class NumberFeature(_Feature):
    """A number; a missing one is flagged as missing, a heavy tail is tamed."""

    kind: Literal["number"]
    log: bool = Field(
        False, description="Take the signed logarithm first: for amounts and counts over several magnitudes."
    )
    from_string: bool = Field(False, description="Numbers inside strings count as numbers.")


class CategoryFeature(_Feature):
    """One of a set of values; values seen less than `min_count` times share one code, unseen ones have another."""

    kind: Literal["category"]
    min_count: int = Field(20, ge=1, description="Values seen less often among normal records share one code.")
    max_values: int = Field(
        100, ge=1, le=10_000, description="Most values with a code of their own; the rest are rare."
    )


class TimeFeature(_Feature):
    """A time as cyclic hour of day and day of week."""

    kind: Literal["time"]
    parts: tuple[TimePart, ...] = Field(("hour", "weekday"), min_length=1, description="Which cycles are features.")
    format: TimeFormat | None = Field(None, description="As in [time]; taken from there for the same field.")
    zone: str | None = Field(None, description="As in [time]; taken from there unless given.")

    @field_validator("zone")
    @classmethod
    def _zone_is_known(cls, value: str | None) -> str | None:
        return None if value is None else _known_zone(value)


class ImageFeature(Closed):
    """An image: PNG or JPEG, or its bare pixels; the only feature of its stream."""

    kind: Literal["image"]
    field: str | None = Field(
        None, min_length=1,
        description="Path of the field with the image in base64; without one a message's whole value is the image.",
    )  # fmt: skip
    name: str = Field("", description="Name in alerts and reports; the field's path, or image, unless given.")
    pixels: tuple[PositiveInt, PositiveInt, Literal[1, 3]] | None = Field(
        None,
        description="Height, width, channels of bare pixels, a byte each, row by row; PNG or JPEG unless given.",
    )
    height: int = Field(28, ge=16, le=128, multiple_of=4, description="Images are scaled to so many rows.")
    width: int = Field(28, ge=16, le=128, multiple_of=4, description="Images are scaled to so many columns.")
    colour: bool = Field(False, description="Score red, green and blue instead of grey levels.")
    max_pixels: PositiveInt = Field(4_000_000, description="Larger images are rejected before they are decoded.")

    @model_validator(mode="after")
    def _bare_pixels_are_not_too_many(self) -> Self:
        if self.pixels is not None and self.pixels[0] * self.pixels[1] > self.max_pixels:
            raise ValueError(
                f"{self.pixels[0]} x {self.pixels[1]} pixels are more than max_pixels ({self.max_pixels}): "
                "every image would be rejected; raise it"
            )
        return self

    @property
    def label(self) -> str:
        """The name that people see, and by which `sensitive` may name an image that is a whole value."""
        return self.name or self.field or "image"

    @property
    def channels(self) -> int:
        """Numbers of a scored pixel."""
        return 3 if self.colour else 1


class HistoryFeature(Closed):
    """A statistic of the entity's own earlier records; without any it is missing, not zero."""

    kind: Literal["history"]
    statistic: Statistic = Field(description="What is said of the entity's records.")
    of: str | None = Field(None, min_length=1, description="Path of the field that it is said of, where it needs one.")
    window: str = Field(ALL, description='How far it looks back, such as "7d", or "all": then old records fade.')
    name: str = Field("", description="Name in alerts and reports; made of the other keys unless given.")
    includes_self: bool = Field(False, description="Whether the record itself counts as one of the records.")
    log: bool | None = Field(
        None, description="Take the signed logarithm first; as is useful for the statistic unless given."
    )

    @field_validator("window")
    @classmethod
    def _window_is_readable(cls, value: str) -> str:
        return value if value == ALL else str(span_is_readable(value))

    @model_validator(mode="after")
    def _keys_fit_the_statistic(self) -> Self:
        needs = self.statistic in OF_NUMBERS | OF_VALUES
        if needs and self.of is None:
            kind = "number" if self.statistic in OF_NUMBERS else "field"
            raise ValueError(f'{self.statistic} is said of a {kind}: add of = "path.of.the.{kind}"')
        if not needs and self.of is not None and self.statistic != "count":
            raise ValueError(f"{self.statistic} is said of records as such: remove of")
        if self.statistic in _ONLY_ALL and self.window != ALL:
            raise ValueError(f'{self.statistic} looks back on all records: remove window = "{self.window}"')
        if self.statistic in _ONLY_BOUNDED and self.window == ALL:
            raise ValueError(f'{self.statistic} needs a window: add one, such as window = "7d"')
        if self.includes_self and self.statistic not in _MAY_INCLUDE:
            raise ValueError(f"{self.statistic} compares a record with those before it: remove includes_self")
        return self

    @property
    def label(self) -> str:
        """The name that people see."""
        if self.name:
            return self.name
        window = "" if self.window == ALL else self.window
        including = "with_self" if self.includes_self else ""
        return ".".join(part for part in (self.of, self.statistic, window, including) if part)

    @property
    def window_us(self) -> int | None:
        """How far it looks back in microseconds, None for all records."""
        return None if self.window == ALL else span_us(self.window)

    @property
    def takes_log(self) -> bool:
        """Whether its logarithm is encoded."""
        return self.statistic in _HEAVY if self.log is None else self.log


class HistorySetting(Closed):
    """How the histories of entities are kept."""

    mode: Literal["buckets", "exact"] = Field(
        "buckets", description="buckets: a fixed amount of memory for each entity; exact: every record of the window."
    )
    max_entities: int = Field(
        1_000_000, ge=1, description="Most entities remembered in one partition; the longest silent are forgotten."
    )
    max_age: str | None = Field(
        None, description="An entity that was silent for longer than this begins anew; never unless given."
    )
    clip: float = Field(
        2.5, gt=1, le=1000, description="Most that one record counts in a robust mean, in units of the mean before it."
    )

    _spans = field_validator("max_age")(span_is_readable)

    @property
    def max_age_us(self) -> int:
        """`max_age` in microseconds, 0 for no limit."""
        return 0 if self.max_age is None else span_us(self.max_age)


Feature = Annotated[
    NumberFeature | CategoryFeature | TimeFeature | HistoryFeature | ImageFeature, Field(discriminator="kind")
]
FieldFeature = NumberFeature | CategoryFeature | TimeFeature
"""A feature that is read from a field of the record itself."""


class StreamDefinition(Closed):
    """What a record of one stream is: identity, time, label, what may be shown, and the features that are scored."""

    name: str = Field(description="The detector's name: lower case letters, digits, dot, dash, underscore.")
    id: str | None = Field(None, description="Field that identifies a record; shown in alerts.")
    key: str | None = Field(None, description="Field of the entity (card, customer, host) that the record belongs to.")
    echo: tuple[str, ...] = Field(
        (), description="Fields that alerts may repeat; no other field of a record leaves it."
    )
    sensitive: tuple[str, ...] = Field((), description="Fields whose values are never shown anywhere.")
    max_record_bytes: int = Field(1_000_000, ge=1, description="Longer values are rejected unread.")
    time: TimeField | None = None
    label: LabelField | None = None
    threshold: ThresholdSetting = ThresholdSetting()
    history: HistorySetting = HistorySetting()
    suppress: tuple[SuppressionRule, ...] = Field((), description="Which anomalies do not become alerts.")
    feature: tuple[Feature, ...] = Field(min_length=1)

    @field_validator("name")
    @classmethod
    def _name_is_plain(cls, value: str) -> str:
        if _NAME.fullmatch(value) is None:
            raise ValueError(
                f"{value!r} cannot name a detector (it becomes a folder and a metric label): "
                "use lower case letters, digits, dot, dash and underscore, beginning with a letter or digit"
            )
        return value

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        labels = [feature.label for feature in self.feature]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"feature {twice[0]!r} is defined twice: give one of them a name of its own")
        for shown in self.echo:
            if whole := next((other for other in self.echo if shown.startswith(other + ".")), None):
                raise ValueError(f"echo {shown!r} is already shown with {whole!r}, the object around it: remove one")
            for hidden in self.sensitive:
                if self.is_sensitive(shown) or f"{hidden}.".startswith(f"{shown}."):
                    raise ValueError(f"echo {shown!r} would show sensitive {hidden!r}: remove one of the two")
        for feature in self.feature:
            read = feature.of if isinstance(feature, HistoryFeature) else feature.field
            if self.label is not None and read == self.label.field:
                raise ValueError(
                    f"feature {feature.label!r} is the label itself: the detector would learn the answer; remove it"
                )
            if isinstance(feature, TimeFeature) and self.time_format(feature.field) is None:
                raise ValueError(f"time feature {feature.label!r} needs a format: iso8601, epoch_s or epoch_ms")
            if isinstance(feature, HistoryFeature) and (self.key is None or self.time is None):
                absent = 'key = "the entity\'s field"' if self.key is None else "[time] with the event time"
                raise ValueError(f"feature {feature.label!r} is of an entity's history: add {absent}")
        for path in self.paths:
            if any(other.startswith(path + ".") for other in self.paths):
                raise ValueError(f"{path!r} cannot be a value and an object with fields of its own at once")
        return self

    @model_validator(mode="after")
    def _paths_can_be_read(self) -> Self:
        for path in (*self.paths, *self.echo):
            _check_path(path)
        return self

    @model_validator(mode="after")
    def _suppression_fits(self) -> Self:
        names = [rule.name for rule in self.suppress]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"suppress {twice[0]!r} is defined twice: its name is the reason that is counted")
        if len([rule for rule in self.suppress if isinstance(rule, EntityRule)]) > 1:
            raise ValueError("one cooldown or episode is enough: two would hide what each has suppressed; remove one")
        for rule in self.suppress:
            if isinstance(rule, EntityRule) and (self.key is None or self.time is None):
                absent = 'key = "the entity\'s field"' if self.key is None else "[time] with the event time"
                raise ValueError(f"suppress {rule.name!r} is about an entity in the course of time: add {absent}")
            if rule.rule == "direction" and rule.feature not in [
                feature.label for feature in self.feature if feature.kind in ("number", "history")
            ]:
                raise ValueError(
                    f"suppress {rule.name!r}: {rule.feature!r} is no feature that is a number, and nothing else has a "
                    "direction: name one"
                )
            if rule.rule == "direction" and any(
                self.is_sensitive(feature.of or "" if feature.kind == "history" else feature.field or "")
                for feature in self.feature
                if feature.label == rule.feature
            ):
                raise ValueError(
                    f"suppress {rule.name!r}: {rule.feature!r} is sensitive, and so is its direction: nobody could see "
                    "why a record was suppressed; remove one of the two"
                )
            if rule.rule == "floor" and self.time_format(rule.field) is not None:
                raise ValueError(f"suppress {rule.name!r}: {rule.field!r} is a time; a floor is for numbers")
        if self.suppress and self.image is not None and self.image.field is None:
            raise ValueError("suppress looks at fields, and values that are images have none: remove it")
        return self

    @model_validator(mode="after")
    def _a_image_stands_alone(self) -> Self:
        image = self.image
        if image is None:
            return self
        if len(self.feature) > 1:
            other = next(feature for feature in self.feature if feature is not image)
            raise ValueError(
                f"feature {image.label!r} is an image and {other.label!r} is another feature: a detector scores one "
                "image, or features of the other kinds; write a definition for each"
            )
        read = {self.id: "id", self.key: "key", self.time and self.time.field: "[time]"}
        if image.field is not None and image.field in read:
            raise ValueError(f"the image {image.field!r} cannot be the {read[image.field]} of its record: remove one")
        named = [name for name, said in (("id", self.id), ("key", self.key), ("echo", self.echo), ("[time]", self.time))
                 if said]  # fmt: skip
        if image.field is None and named:
            raise ValueError(
                f"{named[0]} names a field, and values that are images have none: remove {named[0]}, or say in which "
                'field of a JSON object the image is, as in field = "image"'
            )
        return self

    @model_validator(mode="after")
    def _a_delay_has_a_time(self) -> Self:
        if self.label is not None and self.label.delay is not None and self.time is None:
            raise ValueError("a label's delay counts from the event time: add [time], or remove delay")
        return self

    @property
    def image(self) -> ImageFeature | None:
        """The image that is scored, or None where the records are tables' rows."""
        return next((feature for feature in self.feature if isinstance(feature, ImageFeature)), None)

    @property
    def hides_image(self) -> bool:
        """Whether nothing of the image may be shown: its field is sensitive, or its name where it has no field."""
        return self.image is not None and self.is_sensitive(self.image.field or self.image.label)

    @property
    def paths(self) -> tuple[str, ...]:
        """Every field that is read from a record, each once, in the order of the definition."""
        roles: list[str | None] = [self.id, self.key]
        roles += [self.time.field, self.time.arrival] if self.time else []
        roles += [self.label.field] if self.label else []
        roles += [self.image.field] if self.image else []
        roles += [feature.field for feature in self.field_features] + [feature.of for feature in self.history_features]
        roles += [*self.suppression_numbers, *self.suppression_values]
        return tuple(dict.fromkeys(path for path in roles if path))

    @property
    def field_features(self) -> tuple[FieldFeature, ...]:
        """The features that are read from fields of the record itself."""
        return tuple(feature for feature in self.feature if not isinstance(feature, (HistoryFeature, ImageFeature)))

    @property
    def history_features(self) -> tuple[HistoryFeature, ...]:
        """The features that come from the entity's history."""
        return tuple(feature for feature in self.feature if isinstance(feature, HistoryFeature))

    @property
    def suppression_numbers(self) -> tuple[str, ...]:
        """Fields that rules of suppression read as numbers."""
        return tuple(rule.field for rule in self.suppress if rule.rule == "floor")

    @property
    def suppression_values(self) -> tuple[str, ...]:
        """Fields that rules of suppression read as text."""
        return tuple(rule.field for rule in self.suppress if rule.rule == "segment")

    @property
    def entity_rule(self) -> EntityRule | None:
        """The rule that suppresses by what an entity did before, None where there is none."""
        return next((rule for rule in self.suppress if isinstance(rule, EntityRule)), None)

    @property
    def longest_window_us(self) -> int:
        """The longest window of the history features that ends, in microseconds; 0 where there is none."""
        return max((feature.window_us or 0 for feature in self.history_features), default=0)

    def is_sensitive(self, path: str) -> bool:
        """Whether the value of a field is never shown: it, or an object around it, is declared sensitive."""
        return any(f"{path}.".startswith(f"{hidden}.") for hidden in self.sensitive)

    def time_format(self, path: str) -> tuple[TimeFormat, str] | None:
        """How the time in field `path` is written and in which zone, or None where it is no time."""
        declared = [f for f in self.feature if isinstance(f, TimeFeature) and f.field == path]
        own = self.time is not None and path in (self.time.field, self.time.arrival)
        shared = self.time if own or declared else None
        form = next((f.format for f in declared if f.format), None)
        zone = next((f.zone for f in declared if f.zone), None)
        if shared is not None and own:
            return shared.format, shared.zone
        if form is None:
            return None
        return form, zone or (shared.zone if shared else "UTC")

    @classmethod
    def load(cls, path: Path | str) -> StreamDefinition:
        """Read a definition from a TOML file.

        Raises:
            StreamDefinitionError: The file cannot be read, is not TOML, or a key is wrong; names file, key and remedy.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise StreamDefinitionError(
                f"{path}: cannot be read ({error}): `offbeat init DATA` proposes a stream definition from data"
            ) from error
        return cls.from_toml(text, source=str(path))

    @classmethod
    def from_toml(cls, text: str, source: str = "stream.toml") -> StreamDefinition:
        """Read a definition from TOML text; `source` is the name that errors use.

        Raises:
            StreamDefinitionError: The text is not TOML, or a key is wrong.
        """
        try:
            content = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise StreamDefinitionError(f"{source}: is not TOML: {error}") from error
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise StreamDefinitionError(
                "\n".join(_explain(source, item) for item in _own_mistakes(error.errors()))
            ) from error

    def to_toml(self) -> str:
        """The definition as TOML text that `from_toml` reads back to an equal one."""
        content = self.model_dump(mode="json", exclude_defaults=True)
        features, suppress = content.pop("feature"), content.pop("suppress", ())
        lines = [f"{key} = {_toml(value)}" for key, value in content.items() if not isinstance(value, dict)]
        tables = [(f"[{key}]", value) for key, value in content.items() if isinstance(value, dict)]
        tables += [("[[suppress]]", value) for value in suppress] + [("[[feature]]", value) for value in features]
        for head, table in tables:
            lines += ["", head, *(f"{key} = {_toml(value)}" for key, value in table.items())]
        return "\n".join(lines) + "\n"


def _check_path(path: str) -> None:
    """Refuse a path that no field can have: readers of JSON are made from it.

    Raises:
        ValueError: It has signs that names of fields cannot have, or leads too deep.
    """
    if odd := sorted({character for character in path if character in '"\\' or character < " "}):
        raise ValueError(
            f"{path!r:.120} has {', '.join(map(repr, odd))} in it, which no field that can be read has: mend the path"
        )
    if path.count(".") >= DEEPEST:
        raise ValueError(f"{path!r:.120} leads more than {DEEPEST} objects deep, and such records are rejected")


def _toml(value: object) -> str:
    """A scalar or list as a TOML value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, str):
        escaped = "".join(f"\\{c}" if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08x}" for c in value)
        return f'"{escaped}"'
    return repr(value)


def _own_mistakes(errors: list[Any]) -> list[Any]:
    """Errors less those that only follow from another: a list is not too short because its items are wrong."""
    inner = {item["loc"][0] for item in errors if len(item["loc"]) > 1}
    return [item for item in errors if not (item["type"] == "too_short" and item["loc"][0] in inner)]


_FEATURES: tuple[type[BaseModel], ...] = (NumberFeature, CategoryFeature, TimeFeature, HistoryFeature, ImageFeature)
_TAGS = {
    "feature": ("kind", ("number", "category", "time", "history", "image")),
    "suppress": ("rule", tuple(SUPPRESSION_RULES)),
}
"""Lists whose items are of several kinds, by the key that says which, and what it may say."""

_REMEDIES = {
    "extra_forbidden": "is not a key of the stream definition: remove it or mend its spelling{near}",
    "missing": "is missing: add it",
    "union_tag_not_found": "has no {tag}: add {tag} = one of {tags}",
    "union_tag_invalid": "has an unknown {tag}: use one of {tags}",
}


def _explain(source: str, item: Any) -> str:
    """One validation error as file, key, what is wrong and what to do."""
    place = tuple(item["loc"])  # of a feature's key: "feature", its number, its kind, the key
    tag, tags = _TAGS.get(str(place[0]) if place else "", ("", ()))
    location = [part for turn, part in enumerate(place) if turn != 2 or part not in tags]
    key = ""
    for part in location:
        key += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if key else str(part)
    remedy = _REMEDIES.get(item["type"])
    if remedy is None:
        given = item.get("input")
        shown = f" (it is {given!r})" if isinstance(given, (str, int, float, bool)) else ""
        message = item["msg"].removeprefix("Value error, ")
        return f"{source}: {key or 'definition'}: {message}{'' if item['type'] == 'value_error' else shown}"
    return f"{source}: {key}: {remedy.format(near=_near(location), tag=tag, tags=_listed(tags))}"


def _listed(words: tuple[str, ...]) -> str:
    return " or ".join([", ".join(words[:-1]), *words[-1:]])


def _near(location: list[Any]) -> str:
    """A hint at the key that was probably meant."""
    from difflib import get_close_matches

    parts: dict[str, type[BaseModel]] = {
        "time": TimeField, "label": LabelField, "threshold": ThresholdSetting, "history": HistorySetting,
    }  # fmt: skip
    if len(location) == 1:
        known = set(StreamDefinition.model_fields)
    elif location[0] in _TAGS:
        models = _FEATURES if location[0] == "feature" else tuple(SUPPRESSION_RULES.values())
        known = {key for model in models for key in model.model_fields}
    else:
        known = set(parts[str(location[0])].model_fields) if location[0] in parts else set()
    close = get_close_matches(str(location[-1]), known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else f" (known here: {', '.join(sorted(known))})"
