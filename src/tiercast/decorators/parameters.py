"""What a decorated function's signature says, in the forms that generated code needs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

RESERVED = "_tc_"
"""What names in generated code begin with; no parameter may."""
RECEIVERS = ("self", "cls")


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of one function.

    Attributes:
        function: "module.qualname", for messages and default keys.
        positional: what may be given by position, in order, the receiver included.
        keyword_only: what may only be given by name.
        variadic, keywords: the names of ``*args`` and ``**kwargs``; None where there are none.
        receiver: the parameter that a method is bound to (``self``, ``cls``); None for functions.
        defaults: the parameters that have one.
        header: the parameter list as source text; defaults are filled in by whoever makes a function of it.
        arguments: source text of the arguments as they came: ``(a, b, *args), {"c": c, **kwargs}``.
    """

    function: str
    positional: tuple[str, ...]
    keyword_only: tuple[str, ...]
    variadic: str | None
    keywords: str | None
    receiver: str | None
    defaults: dict[str, Any]
    header: str
    arguments: str

    @classmethod
    def of(cls, function: Callable[..., Any], *, receiver: bool | None = None) -> Parameters:
        """Read a function's signature, through `functools.wraps` and partials.

        Args:
            function: the function as it was written, or a wrapper that names it in ``__wrapped__``.
            receiver: whether the first parameter is what a method is bound to; None: where it
                is called ``self`` or ``cls``.

        Raises:
            TypeError: it has no signature, or a parameter whose name generated code uses.
        """
        name = function_name(function)
        try:
            listed = list(inspect.signature(function).parameters.values())
        except ValueError:
            message = f"{name} has no signature that could be read; wrap it in a function of your own"
            raise TypeError(message) from None
        clash = [each.name for each in listed if each.name.startswith(RESERVED)]
        if clash:
            message = f"parameter {clash[0]!r} of {name}: names that begin with {RESERVED!r} are not possible here"
            raise TypeError(message)
        positional = [each.name for each in listed if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
        keyword_only = [each.name for each in listed if each.kind is each.KEYWORD_ONLY]
        variadic = next((each.name for each in listed if each.kind is each.VAR_POSITIONAL), None)
        keywords = next((each.name for each in listed if each.kind is each.VAR_KEYWORD), None)
        if receiver is None:
            receiver = bool(positional) and positional[0] in RECEIVERS
        return cls(
            function=name,
            positional=tuple(positional),
            keyword_only=tuple(keyword_only),
            variadic=variadic,
            keywords=keywords,
            receiver=positional[0] if receiver and positional else None,
            defaults={each.name: each.default for each in listed if each.default is not each.empty},
            header=_header(listed),
            arguments=_arguments(positional, keyword_only, variadic, keywords),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Every parameter's name, ``*args`` and ``**kwargs`` included."""
        rest = tuple(name for name in (self.variadic, self.keywords) if name is not None)
        return self.positional + self.keyword_only + rest

    @property
    def passed(self) -> tuple[str, ...]:
        """What a caller passes by position: without the receiver, which the method brings along."""
        return self.positional[1:] if self.receiver else self.positional

    def values(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments, as `arguments` writes them, by parameter name."""
        found = dict(zip(self.positional, args, strict=False))
        if self.variadic is not None:
            found[self.variadic] = args[len(self.positional) :]
        found.update((name, kwargs[name]) for name in self.keyword_only)
        if self.keywords is not None:
            found[self.keywords] = {name: each for name, each in kwargs.items() if name not in self.keyword_only}
        return found

    def set_defaults(self, function: Any) -> None:
        """Give a function that was made from `header` the defaults themselves."""
        function.__defaults__ = tuple(self.defaults[name] for name in self.positional if name in self.defaults) or None
        function.__kwdefaults__ = {
            name: self.defaults[name] for name in self.keyword_only if name in self.defaults
        } or None  # fmt: skip

    def function_of(self, expression: str, namespace: dict[str, Any]) -> Callable[..., Any]:
        """Compile an expression over the parameters into a function with the same parameter list."""
        source = f"lambda {self.header}: {expression}"
        function = eval(compile(source, f"<key of {self.function}>", "eval"), namespace)  # noqa: S307  our own text
        self.set_defaults(function)
        return function  # type: ignore[no-any-return]


def function_name(function: Callable[..., Any]) -> str:
    """Return "module.qualname" of a function, or what comes nearest to it."""
    plain: Any = function
    while isinstance(plain, functools.partial):
        plain = plain.func
    module = getattr(plain, "__module__", None) or type(plain).__module__
    name = getattr(plain, "__qualname__", None) or type(plain).__qualname__
    return f"{module}.{name}"


def _header(listed: list[inspect.Parameter]) -> str:
    pieces: list[str] = []
    for index, each in enumerate(listed):
        before = listed[index - 1] if index else None
        if before is not None and before.kind is each.POSITIONAL_ONLY and each.kind is not each.POSITIONAL_ONLY:
            pieces.append("/")
        star = before is None or before.kind not in (each.VAR_POSITIONAL, each.KEYWORD_ONLY)
        if each.kind is each.KEYWORD_ONLY and star:
            pieces.append("*")
        prefix = "*" if each.kind is each.VAR_POSITIONAL else "**" if each.kind is each.VAR_KEYWORD else ""
        default = "" if each.default is each.empty else "=None"
        pieces.append(f"{prefix}{each.name}{default}")
    if listed and listed[-1].kind is inspect.Parameter.POSITIONAL_ONLY:
        pieces.append("/")
    return ", ".join(pieces)


def _arguments(positional: list[str], keyword_only: list[str], variadic: str | None, keywords: str | None) -> str:
    by_position = [*positional, *([f"*{variadic}"] if variadic else [])]
    by_name = [f'"{name}": {name}' for name in keyword_only] + ([f"**{keywords}"] if keywords else [])
    return f"({''.join(f'{each}, ' for each in by_position)}), {{{', '.join(by_name)}}}"
