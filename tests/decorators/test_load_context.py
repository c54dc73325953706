"""`current_load()`: what a loader may say and see."""

from __future__ import annotations

import contextvars

import pytest

from tiercast.loading.context import NOT_MODIFIED, LoadContext, current_load, entered
from tiercast.region import DEFAULT


def test_outside_a_load_it_is_one_that_nobody_reads():
    current_load().ttl = 5
    assert current_load().ttl is DEFAULT
    assert (current_load().key, current_load().has_stale, current_load().keep) == ("", False, True)


def test_inside_it_is_the_same_object_also_in_a_copied_context():
    context = LoadContext("k", ttl=3, tags=("a",), stale_value=None, has_stale=True)
    with entered(context):
        assert current_load() is context
        assert contextvars.copy_context().run(current_load) is context
        current_load().tags += ("b",)
        current_load().tags.append("c")
    assert context.tags == ["a", "b", "c"]
    assert current_load() is not context
    context.tags = ("only",)
    assert context.tags == ["only"]
    with pytest.raises(TypeError, match="one string"):
        context.tags = "only"
    assert repr(NOT_MODIFIED) == "NOT_MODIFIED"
