"""What every decorator does with what it is given: see what it is, generate the wrapper, attach the operations."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

from ..config.checks import suggestion
from ..loading.loads import is_async
from .bound import UNBOUND, Recipe, Site
from .method import Method, operations
from .parameters import Parameters, function_name
from .wrapper import Source

MakeRecipe = Callable[[Callable[..., Any], Parameters], Recipe]
MakeCall = Callable[[Site], Callable[..., Any]]
D = TypeVar("D", bound=Callable[..., Any])


def decorate(
    function: Any, make_recipe: MakeRecipe, *, make_call: MakeCall | None = None, only_async: str | None = None
) -> Any:
    """Decorate a function, or what a class body makes of one.

    Args:
        function: a function, classmethod, staticmethod, property or cached_property, or an
            already decorated one.
        make_recipe: says what to do with the function, given its parameters.
        make_call: makes what a call does, `(args, kwargs)`; None: look into the cache, else load.
        only_async: the name of a decorator that takes async functions only.

    Raises:
        TypeError: it is nothing that could be cached: a generator function, a class, no callable.
    """
    again = functools.partial(decorate, make_recipe=make_recipe, make_call=make_call, only_async=only_async)
    if isinstance(function, staticmethod):
        return staticmethod(
            _decorated(function.__func__, make_recipe, make_call, only_async, receiver=False, of_class=False)
        )
    if isinstance(function, classmethod):
        return _decorated(function.__func__, make_recipe, make_call, only_async, receiver=True, of_class=True)
    if isinstance(function, property):
        return property(again(function.fget), function.fset, function.fdel, function.__doc__)
    if isinstance(function, functools.cached_property):
        return functools.cached_property(again(function.func))
    return _decorated(function, make_recipe, make_call, only_async, receiver=None, of_class=False)


def suggests(decorator: D) -> D:
    """Have a decorator's TypeError of an unknown keyword name the nearest one, as the operations' does."""
    names = [*inspect.signature(decorator).parameters]

    @functools.wraps(decorator)
    def checked(*args: Any, **options: Any) -> Any:
        for name in options:
            if name not in names:
                hint = suggestion(name, names)
                raise TypeError(f"{decorator.__name__}() got an unexpected keyword argument {name!r}{hint}")
        return decorator(*args, **options)

    return cast("D", checked)


def _decorated(
    function: Any,
    make_recipe: MakeRecipe,
    make_call: MakeCall | None,
    only_async: str | None,
    *,
    receiver: bool | None,
    of_class: bool,
) -> Any:
    refuse(function, only_async)
    parameters = Parameters.of(function, receiver=receiver)
    recipe = make_recipe(function, parameters)
    site = Site(function, parameters, recipe, is_async=is_async(_plain(function)))
    plain = _plain(function)
    key = recipe.key if make_call is None else None
    source = Source(
        parameters,
        is_async=site.is_async,
        name=getattr(plain, "__name__", ""),
        key=None if key is None else key.expression,
        namespace={} if key is None else key.namespace,
        one_region=recipe.region is not None,
        counts_keys=site.namespace is not None,
        pure=key is not None and key.glob is not None,
    )
    if make_call is not None:
        made = source.build(plain, call=make_call(site))
    else:
        load = site.load_async if site.is_async else site.load
        hit = site.hits.add if site.namespace is None else site.touched
        source.namespace.update(UNBOUND)
        made = source.build(plain, load=load, hit=hit, explained=site.explained)
        site.serve_hits(made, source)
    made.__wrapped__ = function  # type: ignore[attr-defined]
    made.__dict__["_tiercast_site"] = site
    made.__dict__.update(operations(site))
    return made if parameters.receiver is None else Method(made, site, of_class=of_class)


def _plain(function: Any) -> Callable[..., Any]:
    """Return the function of a decorated method, whose own attributes would else be copied."""
    return function._function if isinstance(function, Method) else function


def refuse(function: Any, only_async: str | None = None) -> None:
    """Raise the TypeError of what cannot be decorated."""
    if not callable(function):
        message = (
            f"only functions can be decorated, not {function!r}; "
            f"a decorator whose first argument is a key is not written without parentheses"
        )
        raise TypeError(message)
    name = function_name(function)
    if isinstance(function, type):
        message = f"{name} is a class; decorate a function that makes its instances"
        raise TypeError(message)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        message = (
            f"{name} is a generator function: what it yields can be read only once and cannot be cached; "
            f"return a list instead"
        )
        raise TypeError(message)
    if only_async is not None and not is_async(_plain(function)):
        message = f"{only_async} is for async functions, which {name} is not; use cached"
        raise TypeError(message)
