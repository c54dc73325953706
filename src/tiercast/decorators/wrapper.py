"""The function that replaces a decorated one: generated for its parameter list, so that a hit binds no arguments.

Implementation notes.
    `def get_user(user_id): …` becomes, in a namespace of its own:

        def get_user(user_id):
            if (_tc_kind := _tc_type(user_id)) is _tc_int or _tc_kind is _tc_str:
                _tc_key = _tc_known(user_id)
            else:
                _tc_key = None
            if _tc_key is None:
                try:
                    _tc_key = f"user:{user_id if _tc_type(user_id) is _tc_int else _tc_part(user_id)}"
                except _tc_Unkeyable as _tc_error:
                    raise _tc_explained(_tc_error, (user_id, ), {}) from None
                if …: _tc_keys[user_id] = _tc_key
            if not _tc_used or _tc_current() is None:
                _tc_entry = _tc_lookup(_tc_key)
                if …:  # as in `loading/hits.py`
                    …
                    _tc_count()
                    _tc_hit()
                    return _tc_entry.value
            return _tc_load(_tc_key, (user_id, ), {})

    Writing a key down costs as much as half a hit, so the keys of a function of one parameter are
    remembered, for exactly int and str: there are no two of them that are equal and make different keys.
    What begins with `_tc_` is a global of that namespace: binding to a manager (`bound.py`)
    replaces it, and a call pays nothing for it. The reading is `hits.reading`, whose conditions
    are explained there, and which depends on the region's shape; for a region of another than
    the default's the code is generated once more. An async function gets the same as one coroutine.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from textwrap import indent
from typing import Any

from ..loading.hits import Shape, reading
from .default_key import UnkeyableError
from .parameters import Parameters

USUAL = Shape("move", heads=False)
"""The shape of a region of memory with the policy that is the default."""

READ = """\
{define} {name}({header}):
    {make}
    if {free}:
        {reading}
    return {wait}_tc_load(_tc_key, {arguments})
"""
MAKE = """\
try:
    _tc_key = {key}
except _tc_Unkeyable as _tc_error:
    raise _tc_explained(_tc_error, {arguments}) from None
"""
RECALL = """\
if (_tc_kind := _tc_type({parameter})) is _tc_int or _tc_kind is _tc_str:
    _tc_key = _tc_known({parameter})
else:
    _tc_key = None
if _tc_key is None:
{make}
    if (_tc_kind is _tc_int or (_tc_kind is _tc_str and _tc_len({parameter}) <= {longest})) and _tc_len(_tc_keys) < {most}:
        _tc_keys[{parameter}] = _tc_key
"""
REMEMBERED = 4096
"""Keys that are remembered for each function; the next load after that many begins anew."""
LONGEST = 200
"""Characters of the longest argument that is remembered."""
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
        pure: whether the key follows from the arguments alone.
    """

    parameters: Parameters
    is_async: bool
    name: str
    key: str | None
    namespace: dict[str, Any]
    one_region: bool = False
    counts_keys: bool = False
    pure: bool = False
    keys: dict[Any, str] = field(default_factory=dict)

    def function(self, shape: Shape = USUAL) -> Callable[..., Any]:
        """Generate the wrapper for a region of some shape."""
        hit = f"_tc_hit({'_tc_key' if self.counts_keys else ''})"
        text = (SLOW if self.key is None else READ).format(
            define="async def" if self.is_async else "def",
            wait="await " if self.is_async else "",
            name=self.name if self.name.isidentifier() else "decorated",
            header=self.parameters.header,
            arguments=self.parameters.arguments,
            make=self._make_key(),
            free="True" if self.one_region else "not _tc_used or _tc_current() is None",
            reading="\n        ".join(reading(shape, "_tc_key", "_tc_", hit)),
        )
        self.namespace.update(
            _tc_Unkeyable=UnkeyableError, _tc_type=type, _tc_int=int, _tc_str=str, _tc_len=len,
            _tc_keys=self.keys, _tc_known=self.keys.get,
        )  # fmt: skip
        local: dict[str, Any] = {}
        code = compile(text, f"<{self.parameters.function} cached>", "exec")
        exec(code, self.namespace, local)  # noqa: S102  our own text
        (made,) = local.values()
        return made  # type: ignore[no-any-return]

    def _make_key(self) -> str:
        """Return the text that makes `_tc_key`; that remembers, where one parameter decides."""
        if self.key is None:
            return ""
        make = MAKE.format(key=self.key, arguments=self.parameters.arguments)
        names = {node.id for node in ast.walk(ast.parse(self.key, mode="eval")) if isinstance(node, ast.Name)}
        decide = names & set(self.parameters.names)
        if self.pure and len(decide) == 1 and not decide & {self.parameters.variadic, self.parameters.keywords}:
            make = RECALL.format(parameter=decide.pop(), make=indent(make, "    "), most=REMEMBERED, longest=LONGEST)
        return indent(make, "    ").strip()

    def forget_keys(self) -> None:
        """Let remembered keys go where there is no room for more; for whoever loads."""
        if len(self.keys) >= REMEMBERED:
            self.keys.clear()

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
