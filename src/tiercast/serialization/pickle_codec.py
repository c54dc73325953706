"""Pickle, signed: any Python object, for fleets whose every process is trusted with the secret.

Whoever can make a process unpickle bytes of his choice runs code in it. So each pickle
carries an HMAC-SHA256 made with the configured secret, and bytes that are unsigned or
badly signed never reach pickle. What was signed once stays valid: the secret must be
known to nobody who may not run code in the fleet.
"""

from __future__ import annotations

import hmac
import pickle
from typing import Any, Final

from ..config.defaults import SHORTEST_SECRET
from ..errors import ConfigError
from .base import Refusal, UnreadableValue

_SIGNATURE_SIZE: Final = 32
_LONGEST_SEARCH: Final = 50
"""Levels down to which a refused value is searched for the part at fault."""


class PickleCodec:
    """Values as signed pickles: signature (32 bytes), then the pickle. Thread-safe.

    What comes back is what the class's own pickling makes of it: equality is as good as
    that. Functions, open files and objects of local classes are refused.

    Args:
        secret: shared by the fleet, at least 8 bytes (better 32 random ones); text is taken as UTF-8.

    Raises:
        ConfigError: no secret, or a short one.
    """

    id: Final = 3
    name: Final = "pickle"
    keeps_types: Final = True

    def __init__(self, secret: str | bytes | None) -> None:
        if not secret:
            raise ConfigError(
                "serializer 'pickle' needs a secret (DistributedCacheConfig.secret): unsigned pickles are never read"
            )
        if not isinstance(secret, (str, bytes)):
            raise ConfigError(f"secret must be text or bytes, not {type(secret).__name__}")
        key = secret.encode() if isinstance(secret, str) else secret
        if len(key) < SHORTEST_SECRET:
            raise ConfigError(f"secret must have at least {SHORTEST_SECRET} bytes, not {len(key)}")
        # A key of its own, so that the same secret signs nothing else by accident.
        self._key = hmac.digest(key, b"tiercast pickle 1", "sha256")

    def encode(self, value: Any) -> bytes:
        try:
            data = pickle.dumps(value, protocol=5)
        except Exception as exc:
            raise _located(value, exc) from exc
        return self._sign(data) + data

    def decode(self, data: bytes) -> Any:
        signature, pickled = data[:_SIGNATURE_SIZE], data[_SIGNATURE_SIZE:]
        if not hmac.compare_digest(signature, self._sign(pickled)):
            raise UnreadableValue("the pickle is not signed with this fleet's secret")
        return pickle.loads(pickled)  # noqa: S301  its signature has been verified

    def _sign(self, data: bytes) -> bytes:
        return hmac.digest(self._key, data, "sha256")

    def __repr__(self) -> str:
        return "PickleCodec(secret=...)"


def _located(value: Any, error: BaseException) -> Refusal:
    """Return the refusal of the innermost item that cannot be pickled by itself."""
    steps: list[Any] = []
    here, seen = value, set[int]()
    while len(steps) < _LONGEST_SEARCH and id(here) not in seen and isinstance(here, (dict, list, tuple)):
        seen.add(id(here))
        children = here.items() if isinstance(here, dict) else enumerate(here)
        for at, child in children:
            problem = _problem(child)
            if problem is not None:
                steps.append(at)
                here, error = child, problem
                break
        else:
            break
    refusal = Refusal(f"{type(error).__name__}: {error}")
    for at in reversed(steps):
        refusal.within("item", at)
    return refusal


def _problem(value: Any) -> Exception | None:
    try:
        pickle.dumps(value, protocol=5)
    except Exception as exc:  # noqa: BLE001  pickling runs the classes' own code; it is reported, not lost
        return exc
    return None
