"""The rules by which anomalies do not become alerts, as a stream definition states them; they judge nothing."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, Field, field_validator

from detector.definition_parts import Closed, span_is_readable, span_us

_NAME = re.compile(r"[a-z][a-z0-9_]{0,49}")
_TAKEN = ("tombstone",)


class _Rule(Closed):
    name: str = Field(description="The reason that suppressed records are counted by.")

    @field_validator("name")
    @classmethod
    def _name_is_a_label(cls, value: str) -> str:
        if _NAME.fullmatch(value) is None or value in _TAKEN:
            raise ValueError(
                f"{value!r} cannot name a rule (it labels a metric, beside {', '.join(_TAKEN)}): use lower case "
                "letters, digits and underscore, beginning with a letter"
            )
        return value


class FloorRule(_Rule):
    """An anomaly with a number below a floor does not alert: too small to look at."""

    rule: Literal["floor"]
    field: str = Field(min_length=1, description="Path of the number.")
    at_least: float = Field(allow_inf_nan=False, description="Records with less than this do not alert.")


class SegmentRule(_Rule):
    """An anomaly of some segments does not alert: test shops, a migration, a country that others look after."""

    rule: Literal["segment"]
    field: str = Field(min_length=1, description="Path of the field that names the segment.")
    values: tuple[str, ...] = Field(min_length=1, description="Segments that do not alert.")


class DirectionRule(_Rule):
    """An anomaly whose first reason is a number on the harmless side of what was expected does not alert."""

    rule: Literal["direction"]
    feature: str = Field(min_length=1, description="Name of the feature.")
    direction: Literal["above", "below"] = Field(description="Which side of the expected value does not alert.")


class _OfAnEntity(_Rule):
    max_entities: int = Field(
        10_000, ge=1, le=1_000_000,
        description="Most entities remembered in a partition; of more, the longest quiet may alert again.",
    )  # fmt: skip


class CooldownRule(_OfAnEntity):
    """After an alert, an entity's anomalies do not alert for a while."""

    rule: Literal["cooldown"]
    period: str = Field(description='For how long, such as "1h".')

    _spans = field_validator("period")(span_is_readable)

    @property
    def longest_us(self) -> int:
        """How long an alert matters to its entity's next anomaly, in microseconds: `period`."""
        return span_us(self.period)


class EpisodeRule(_OfAnEntity):
    """Anomalies of an entity that follow each other closely are one episode, and alert once."""

    rule: Literal["episode"]
    gap: str = Field(description='An anomaly this long after the one before begins another episode, such as "30m".')
    repeat: str = Field("1d", description="An episode that lasts longer than this alerts again.")

    _spans = field_validator("gap", "repeat")(span_is_readable)

    @property
    def gap_us(self) -> int:
        """`gap` in microseconds."""
        return span_us(self.gap)

    @property
    def longest_us(self) -> int:
        """How long an alert matters to its entity's next anomaly, in microseconds: `repeat`."""
        return span_us(self.repeat)


EntityRule = CooldownRule | EpisodeRule
"""What an entity's earlier alerts say of its next anomaly."""

SUPPRESSION_RULES: dict[str, type[BaseModel]] = {
    "floor": FloorRule, "segment": SegmentRule, "direction": DirectionRule,
    "cooldown": CooldownRule, "episode": EpisodeRule,
}  # fmt: skip
"""The rules by what `rule` says."""

SuppressionRule = Annotated[
    FloorRule | SegmentRule | DirectionRule | CooldownRule | EpisodeRule, Field(discriminator="rule")
]
