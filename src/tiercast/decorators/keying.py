"""The key and tags of a decorated function: from a template, from a function of the user's, or by default."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any

from ..keys import encode_part, escape_glob
from .captured import warn_of_twin
from .default_key import UnkeyableError, class_name, function_prefix, text
from .parameters import Parameters
from .template import Template, literal, named, parse

KeyLike = str | Callable[..., str] | None
TagsLike = str | Iterable[str] | Callable[..., "str | Iterable[str]"]
RESULT = "result"
"""The parameter by which a function of tags asks for the value."""


LONGEST = 1_000
"""Characters of a default key beyond which a digest stands for the arguments: a whole document makes no key, and no record."""


@dataclass(frozen=True, slots=True)
class Key:
    """How a function's arguments become a key.

    Attributes:
        expression: source text over the function's parameters; namespace: what it needs.
        glob: the pattern of all keys of the function; None where a function of the user's makes them.
        template: None unless there is one.
    """

    expression: str
    namespace: dict[str, Any]
    glob: str | None
    template: Template | None = None

    @classmethod
    def of(cls, key: KeyLike, version: int | str | None, function: Callable[..., Any], parameters: Parameters) -> Key:
        """Compile the `key` and `version` of a decorator.

        A version other than None ends the key of a template ("user:1@2") and stands in a default
        key behind the function's name, so that values of two versions never meet.

        Raises:
            KeyTemplateError: the template cannot be read, or names what the function does not have.
            TypeError: `key` or `version` is of no type that they may have.
        """
        suffix = _version(version)
        if key is None:
            return cls._default(suffix, function, parameters)
        namespace: dict[str, Any] = {}
        if isinstance(key, str):
            template = parse(key)
            expression = template.expression(parameters, namespace)
            return cls(f'{expression[:-1]}{literal(suffix)}"', namespace, template.glob + escape_glob(suffix), template)
        if not callable(key):
            message = f"the key of {parameters.function} must be a template or a function of its arguments, not {key!r}"
            raise TypeError(message)
        maker = named(namespace, partial(_made_by, key, suffix, parameters.function))
        return cls(f"{maker}({parameters.arguments})", namespace, None)

    @classmethod
    def _default(cls, suffix: str, function: Callable[..., Any], parameters: Parameters) -> Key:
        """Name the function and write down every argument so that different ones never make the same key."""
        if not hasattr(function, "__qualname__"):
            message = f"{function!r} has no name of its own to begin a default key with; give it key="
            raise TypeError(message)
        prefix = function_prefix(parameters.function, function) + suffix
        warn_of_twin(prefix, function)
        namespace: dict[str, Any] = {"_tc_type": type, "_tc_int": int, "_tc_text": text}
        pieces = []
        for name in parameters.names:
            if name == parameters.receiver:
                continue
            if name in parameters.defaults and not _has_text(parameters.defaults[name]):
                writer = named(namespace, partial(_text_or_default, parameters.defaults[name]))
                pieces.append(f"{name}={{{writer}({name})}}")
            else:
                pieces.append(f"{name}={{{name} if _tc_type({name}) is _tc_int else _tc_text({name})}}")
        owner = ""
        if parameters.receiver is not None:
            writer = named(namespace, partial(_owner, parameters.receiver, *_defined_in(parameters.function, function)))
            owner = f"{{{writer}({parameters.receiver})}}"
        written = f'f"{literal(prefix)}:{owner}{",".join(pieces)}"'
        short = named(namespace, partial(_digested, len(prefix) + 1))
        namespace["_tc_len"] = len
        expression = f"(_tc_text_ if _tc_len(_tc_text_ := {written}) <= {LONGEST} else {short}(_tc_text_))"
        return cls(expression, namespace, escape_glob(f"{prefix}:") + "*")

    def explained(self, parameters: Parameters, error: UnkeyableError, args: Any, kwargs: Any) -> TypeError:
        """Return the error for the caller: it names the parameter that cannot be part of a key."""
        return _explained(parameters, [self.template] if self.template else [], args, kwargs, error)


@dataclass(frozen=True, slots=True)
class Tags:
    """How a function's arguments, or its value, become tags.

    Attributes:
        of_arguments: called with the arguments. of_value: called with them and ``result=``.
    """

    of_arguments: Callable[..., tuple[str, ...]] | None = None
    of_value: Callable[..., tuple[str, ...]] | None = None

    @classmethod
    def of(cls, tags: TagsLike, parameters: Parameters) -> Tags:
        """Compile the `tags` of a decorator: templates, or a function of the arguments.

        A function that has a parameter called ``result``, where the decorated one has none, is
        called with the value as well, once it is there.

        Raises:
            KeyTemplateError: a template names what the function does not have.
            TypeError: neither templates nor a function.
        """
        if callable(tags):
            if RESULT not in parameters.names and RESULT in _parameter_names(tags):
                return cls(of_value=partial(_called, tags, parameters.function))
            return cls(of_arguments=partial(_called, tags, parameters.function))
        what = f"the tags of {parameters.function} must be templates, or a function of its arguments"
        templates = [parse(tag) for tag in _several(tags, what)]
        if not templates:
            return cls()
        namespace: dict[str, Any] = {}
        written = [template.expression(parameters, namespace) for template in templates]
        function = parameters.function_of(f"({', '.join(written)},)", namespace)

        def of_arguments(*args: Any, **kwargs: Any) -> tuple[str, ...]:
            try:
                return function(*args, **kwargs)  # type: ignore[no-any-return]
            except UnkeyableError as exc:
                raise _explained(parameters, templates, args, kwargs, exc) from None

        return cls(of_arguments=of_arguments)


NO_TAGS = Tags()


def _version(version: int | str | None) -> str:
    if version is None:
        return ""
    if isinstance(version, bool) or not isinstance(version, int | str):
        message = f"version must be an int or a str, not {version!r}"
        raise TypeError(message)
    return f"@{encode_part(str(version))}"


def _made_by(key: Callable[..., str], suffix: str, function: str, args: Any, kwargs: Any) -> str:
    made = key(*args, **kwargs)
    if not isinstance(made, str):
        message = f"the key function of {function} returned {made!r}; a key is a str"
        raise TypeError(message)
    if not made:
        message = f"the key function of {function} returned an empty str"
        raise ValueError(message)
    return made + suffix


def _called(tags: Callable[..., str | Iterable[str]], function: str, /, *args: Any, **kwargs: Any) -> tuple[str, ...]:
    return _several(tags(*args, **kwargs), f"the function of tags of {function} must return several str")


def _several(tags: str | Iterable[str], what: str) -> tuple[str, ...]:
    if isinstance(tags, str):
        return (tags,)
    if not isinstance(tags, Iterable):
        raise TypeError(f"{what}, not {tags!r}")
    return tuple(tags)


def _parameter_names(function: Callable[..., Any]) -> Iterable[str]:
    try:
        return inspect.signature(function).parameters
    except ValueError:
        return ()


def _digested(start: int, key: str) -> str:
    """Return a default key whose arguments are replaced by their digest; no argument's text begins with "#"."""
    return f"{key[:start]}#{blake2b(key.encode('utf-8', 'surrogatepass'), digest_size=32).hexdigest()}"


def _has_text(value: Any) -> bool:
    try:
        text(value)
    except UnkeyableError:
        return False
    return True


def _text_or_default(default: Any, value: Any) -> str:
    """Write a parameter whose default has no text of its own, a sentinel usually."""
    return "default" if value is default else text(value)


def _defined_in(name: str, function: Callable[..., Any]) -> tuple[str, str]:
    """Return (module, qualified name) of the class whose body defines a method."""
    module = getattr(function, "__module__", "") or ""
    return module, name.removeprefix(f"{module}.").rpartition(".")[0]


def _owner(parameter: str, module: str, defining: str, receiver: Any) -> str:
    """Write the class of a method's receiver where it is not the one that defines the method.

    The receiver itself is left out of a default key; what a subclass answers is not what its
    sibling would.
    """
    owner = receiver if isinstance(receiver, type) else type(receiver)
    if owner.__module__ == module and owner.__qualname__ == defining:
        return ""
    return f"{parameter}={class_name(owner)},"


def _explained(
    parameters: Parameters, templates: Iterable[Template], args: Any, kwargs: Any, error: UnkeyableError
) -> TypeError:
    """Find the parameter that has no text: by the fields of the templates, or by itself in a default key."""
    values = parameters.values(args, kwargs)
    writers: list[tuple[str, Callable[[], str]]] = []
    for template in templates:
        for field in template.fields:
            root = field.root
            if root.isdecimal():
                root = parameters.passed[int(root)] if int(root) < len(parameters.passed) else ""
            if root in values:
                writers.append((root, partial(field.read, values[root])))
    if not writers:
        writers = [(name, partial(text, value)) for name, value in values.items() if name != parameters.receiver]
    for name, write in writers:
        try:
            write()
        except UnkeyableError as exc:
            return TypeError(f"parameter {name!r} of {parameters.function} cannot be part of a key: {exc}")
    return TypeError(f"an argument of {parameters.function} cannot be part of a key: {error}")
