"""Tiers and serializers that tell their region's watch what they cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..monitoring.watch import Watch
from ..plans import Plan
from ..serialization import Serializer
from ..tiers.base import Guard, Put, Reading, Tier
from ..tiers.entry import Address, Envelope

if TYPE_CHECKING:
    from ..serialization.base import Dumped
    from ..serialization.serializer import DumpedValue


class MeasuredTier:
    """A tier below memory as one region sees it: what it does is timed, what fails is counted, and both can be traced.

    As safe as the tier itself. What is not of the `Tier` protocol is the tier's own.
    """

    def __init__(self, tier: Tier, watch: Watch) -> None:
        self.tier = tier
        self.name = tier.name
        self._watch = watch
        self._get = tier.get_many
        self._get_now: Callable[[Address, str], Reading | None] | None = getattr(tier, "get_now", None)
        self._got = watch.histogram(tier.name, "get").observe if watch.timed else None
        self._attributes = {"tiercast.region": watch.region, "tiercast.tier": tier.name}
        if tier.name == "remote":
            self._attributes["db.system.name"] = "redis"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tier, name)

    def get_many(self, addresses: Sequence[Address], epoch: str) -> Plan[Reading]:
        watch = self._watch
        began = perf_counter()
        if watch.hub.span is None:
            reading = yield from self._get(addresses, epoch)
        else:
            reading = yield from self._traced("get", self._get(addresses, epoch))
        if self._got is not None:
            self._got(perf_counter() - began)
        if watch.hub.sink is not None:
            watch.hub.sink(watch.region, self.name, "get", perf_counter() - began)
        if reading.failed:
            watch.failed(self.name, addresses[0] if len(addresses) == 1 else None, cause="get")
        return reading

    def get_now(self, address: Address, epoch: str) -> Reading | None:
        """Read one entry where the tier can without waiting, and nobody traces or listens; else None."""
        hub = self._watch.hub
        if self._get_now is None or hub.span is not None or hub.sink is not None:
            return None
        began = perf_counter()
        reading = self._get_now(address, epoch)
        if reading is not None:
            if self._got is not None:
                self._got(perf_counter() - began)
            if reading.failed:
                self._watch.failed(self.name, address, cause="get")
        return reading

    def put_if_newer(self, address: Address, envelope: Envelope, guard: Guard) -> Plan[Put]:
        began = perf_counter()
        put: Put = yield from self._traced("put", self.tier.put_if_newer(address, envelope, guard))
        self._done("put", began)
        if put is Put.FAILED:
            self._watch.failed(self.name, address, cause="put")
        return put

    def bury(self, address: Address, epoch: str, position: int, fence: float) -> Plan[bool]:
        began = perf_counter()
        done: bool = yield from self._traced("bury", self.tier.bury(address, epoch, position, fence))
        self._done("bury", began)
        if not done:
            self._watch.failed(self.name, address, cause="bury")
        return done

    def renew(self, address: Address, seen: Envelope, renewed: Envelope) -> Plan[bool]:
        return self.tier.renew(address, seen, renewed)

    def remove(self, addresses: Sequence[Address], epoch: str) -> Plan[int]:
        return self.tier.remove(addresses, epoch)

    def scan(self, epoch: str, cursor: int = 0, count: int = 500) -> Plan[tuple[int, list[tuple[Address, Envelope]]]]:
        return self.tier.scan(epoch, cursor, count)

    def close(self) -> Plan[None]:
        return self.tier.close()

    def _done(self, operation: str, began: float) -> None:
        if self._watch.timed:
            self._watch.observe(self.name, operation, perf_counter() - began)

    def _traced(self, operation: str, plan: Plan[Any]) -> Plan[Any]:
        with self._watch.span(
            f"tiercast.{self.name}.{operation}", {**self._attributes, "tiercast.operation": operation}
        ):
            return (yield from plan)

    def __repr__(self) -> str:
        return f"<measured {self.tier!r}>"


class MeasuredSerializer(Serializer):
    """A serializer of one tier of one region whose time and bytes are counted. As safe as a serializer.

    Args:
        watch: the region's. tier: the tier's name. The rest is as for `Serializer`.
    """

    __slots__ = ("_decoded", "_decoding", "_encoded", "_encoding")

    def __init__(self, watch: Watch, tier: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._encoding, self._decoding = watch.histogram(tier, "encode"), watch.histogram(tier, "decode")
        self._encoded, self._decoded = watch.bytes_of(tier, "encode"), watch.bytes_of(tier, "decode")

    def dump(self, value: Any, as_type: Any = None) -> Dumped:
        began = perf_counter()
        dumped = super().dump(value, as_type)
        self._encoding.observe(perf_counter() - began)
        self._encoded.add(len(dumped.payload))
        return dumped

    def load_one(self, dumped: DumpedValue, as_type: Any = None) -> Any:
        began = perf_counter()
        value = super().load_one(dumped, as_type)
        self._decoding.observe(perf_counter() - began)
        self._decoded.add(len(dumped.payload))
        return value

    def load_many(self, dumped: Sequence[DumpedValue], as_type: Any = None) -> list[Any]:
        began = perf_counter()
        load = super().load_one
        values = [load(each, as_type) for each in dumped]
        if dumped:
            self._decoding.observe((perf_counter() - began) / len(dumped), len(dumped))
            self._decoded.add(sum([len(each.payload) for each in dumped]))
        return values
