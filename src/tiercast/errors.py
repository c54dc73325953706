"""Every error that tiercast raises on purpose.

    TiercastError
    ├── ConfigError          a setting, a mapping or a file says something that cannot be
    ├── KeyTemplateError     a key or tag template names what the function does not have
    ├── ScopeError           a scope parameter is missing, surplus, empty or None
    │   └── UnknownKeyword   a keyword that neither the operation nor any scope knows (a TypeError too)
    ├── InvalidationError    an event or strategy cannot be turned into targets
    ├── SerializationError   a value would not come back equal and of the same type
    ├── LoadTimeout          a loader took longer than the hard timeout
    ├── LoadCycle            a loader asks, in the same task or thread, for the key it is loading
    ├── BarrierTimeout       some live process has not applied a record in time
    ├── DeliveryError        an invalidation could not reach the log and was told not to wait
    ├── BusUnavailable       coherence could not be proven within the time given
    └── ManagerClosed        an operation on a manager that was closed

Bad arguments of the kinds that Python itself refuses (a key that is no str, a
TTL of zero) raise TypeError and ValueError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


class TiercastError(Exception):
    """The base of every error that tiercast raises on purpose."""


class ConfigError(TiercastError, ValueError):
    """A setting, a mapping or a file says something that cannot be."""


class KeyTemplateError(TiercastError, ValueError):
    """A key or tag template names what the function does not have."""


class ScopeError(TiercastError, ValueError):
    """A scope parameter is missing, surplus, empty or None."""


class UnknownKeyword(ScopeError, TypeError):  # noqa: N818  a kind of ScopeError
    """A keyword that is neither a parameter of the operation nor of any scope; a TypeError too, as of any function."""


class InvalidationError(TiercastError, ValueError):
    """An event or strategy cannot be turned into targets."""


class SerializationError(TiercastError, ValueError):
    """A value would not come back equal and of the same type; the message names the path inside it."""


class LoadTimeout(TiercastError, TimeoutError):  # noqa: N818  the public name is pinned
    """A loader took longer than the hard timeout."""


class LoadCycle(TiercastError, RuntimeError):  # noqa: N818  the public name is pinned
    """A loader asks, in the same task or thread, for the key it is loading."""


class BarrierTimeout(TiercastError, TimeoutError):  # noqa: N818  the public name is pinned
    """Some live process has not applied a record in time.

    Attributes:
        result: the InvalidationResult of the call; the record itself is in the log.
        missing: the members (host:pid) that have not acknowledged it.
    """

    def __init__(self, message: str, *, result: Any = None, missing: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.result = result
        self.missing = tuple(missing)


class DeliveryError(TiercastError):
    """An invalidation could not reach the log and the caller asked not to queue it.

    Attributes:
        result: the InvalidationResult of the call, with ``delivered`` False.
    """

    def __init__(self, message: str, *, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class BusUnavailable(TiercastError, ConnectionError):  # noqa: N818  the public name is pinned
    """Coherence could not be proven within the time given; the message says what was tried."""


class ManagerClosed(TiercastError, RuntimeError):  # noqa: N818  a state, like the rest
    """An operation on a manager that was closed."""
