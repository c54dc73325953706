"""What a user invalidates by: time, events, entities; and the targets that these name."""

from __future__ import annotations

from .events import EventBasedInvalidation
from .patterns import PatternBasedInvalidation
from .targets import Target, entity_targets, event_targets, parse_target, parse_template
from .ttl import TimeBasedInvalidation, jittered

__all__ = [
    "EventBasedInvalidation",
    "PatternBasedInvalidation",
    "Target",
    "TimeBasedInvalidation",
    "entity_targets",
    "event_targets",
    "jittered",
    "parse_target",
    "parse_template",
]
