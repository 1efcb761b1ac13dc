"""Severity: how much rarer an anomaly is than the false alarms that were promised; a ladder, and no judgement."""

from __future__ import annotations

from typing import Literal

Severity = Literal["warning", "minor", "major", "critical"]

SEVERITIES: tuple[tuple[Severity, float], ...] = (("warning", 1), ("minor", 10), ("major", 100), ("critical", 1_000))
"""How many times rarer among normal records than the promised false alarms an anomaly is at least, by severity."""


def severity_of(tail_probability: float, rate: float) -> Severity:
    """The severity of an anomaly by its tail probability, where a share `rate` of normal records may alert."""
    return max((least, severity) for severity, least in SEVERITIES if least * tail_probability <= rate or least == 1)[1]
