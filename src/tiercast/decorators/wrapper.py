"""The function that replaces a decorated one: generated for its parameter list, so that a hit binds no arguments.

Implementation notes.
    `def get_user(user_id): …` becomes, in a namespace of its own:

        def get_user(user_id):
            try:
                _tc_key = f"user:{user_id if _tc_type(user_id) is _tc_int else _tc_part(user_id)}"
            except _tc_Unkeyable as _tc_error:
                raise _tc_explained(_tc_error, (user_id, ), {}) from None
            if _tc_current() is None:
                _tc_entry = _tc_get(_tc_key)
                if (
                    _tc_entry is not None
                    and (_tc_time := _tc_now()) < _tc_entry.fresh_until
                    and _tc_time < _tc_ledger.proven_until
                    and _tc_entry.checked == _tc_view.checkpoint
                    and _tc_heads[0] == _tc_ledger.head_word
                ):
                    try:
                        _tc_move(_tc_key)
                    except KeyError:
                        pass
                    _tc_count()
                    _tc_hit()
                    return _tc_entry.value
            return _tc_load(_tc_key, (user_id, ), {})

    What begins with `_tc_` is a global of that namespace: binding to a manager (`bound.py`)
    replaces it, and a call pays nothing for it. The reading is that of `CacheManager.get`,
    where its conditions are explained. Touching is that of an LRU, which is the default; for a
    region with another policy the code is generated once more, with a call of `Region.touched`
    there. An async function gets the same as one coroutine.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .default_key import UnkeyableError
from .parameters import Parameters

READ = """\
{define} {name}({header}):
    try:
        _tc_key = {key}
    except _tc_Unkeyable as _tc_error:
        raise _tc_explained(_tc_error, {arguments}) from None
    if {free}:
        _tc_entry = _tc_get(_tc_key)
        if (
            _tc_entry is not None
            and (_tc_time := _tc_now()) < _tc_entry.fresh_until
            and _tc_time < _tc_ledger.proven_until
            and _tc_entry.checked == _tc_view.checkpoint
            and _tc_heads[0] == _tc_ledger.head_word
        ):
            {touch}
            _tc_hit({hit})
            return _tc_entry.value
    return {wait}_tc_load(_tc_key, {arguments})
"""
MOVE = """\
try:
                _tc_move(_tc_key)
            except KeyError:
                pass
            _tc_count()"""
TOUCH = "_tc_touched(_tc_key, _tc_entry)"
SLOW = """\
{define} {name}({header}):
    return {wait}_tc_call({arguments})
"""


@dataclass(frozen=True, slots=True)
class Source:
    """What a wrapper is generated from.

    Attributes:
        parameters: the function's. is_async: whether it is a coroutine function.
        name: what the wrapper is called in tracebacks.
        key: source text of the key over the parameters; None: the wrapper only hands its arguments on.
        namespace: its globals; here, what `key` needs.
        one_region: whether the decorator names a region, so that the current one does not matter.
        counts_keys: whether a hit is told its key.
    """

    parameters: Parameters
    is_async: bool
    name: str
    key: str | None
    namespace: dict[str, Any]
    one_region: bool = False
    counts_keys: bool = False

    def function(self, *, moves: bool = True) -> Callable[..., Any]:
        """Generate the wrapper; `moves`: for a region whose policy moves what is read to the end."""
        text = (SLOW if self.key is None else READ).format(
            define="async def" if self.is_async else "def",
            wait="await " if self.is_async else "",
            name=self.name if self.name.isidentifier() else "decorated",
            header=self.parameters.header,
            arguments=self.parameters.arguments,
            key=self.key,
            free="True" if self.one_region else "_tc_current() is None",
            touch=MOVE if moves else TOUCH,
            hit="_tc_key" if self.counts_keys else "",
        )
        self.namespace["_tc_Unkeyable"] = UnkeyableError
        local: dict[str, Any] = {}
        code = compile(text, f"<{self.parameters.function} cached>", "exec")
        exec(code, self.namespace, local)  # noqa: S102  our own text
        (made,) = local.values()
        return made  # type: ignore[no-any-return]

    def build(self, function: Callable[..., Any], **needed: Any) -> Callable[..., Any]:
        """Generate the wrapper of a function, with its name, its defaults and its docstring.

        Args:
            function: what it wraps.
            needed: `load`, `hit` and `explained`, or `call`, as in the notes above.
        """
        self.namespace.update({f"_tc_{each}": thing for each, thing in needed.items()})
        made = self.function()
        self.parameters.set_defaults(made)
        return functools.wraps(function)(made)
