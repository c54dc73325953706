"""The contract of a tier, as a suite that every tier passes: tiercast's own, and yours.

    class TestMyTier(TierContract):
        def make_tier(self, tmp_path, clock):
            return MyTier(tmp_path, clock=clock)

Every claim is checked for threads (`drive`) and for tasks (`drive_async`).
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ..plans import Plan, drive, drive_async
from ..tiers.base import Guard, Put, Tier
from ..tiers.entry import Address, Envelope
from .clock import FakeClock

Run = Callable[[Plan[Any]], Any]

EPOCH = "epoch-1"
REFUSED = {Put.NEWER, Put.BEHIND}
ODD_TEXTS = (
    " ", "a|b", "a:b/c", "%2F", "*", "?[x]", "{tag}", "\\", "\x00", "\r\n", "\x7f", "\ud800", "é", "日本語", "🦊" * 3,
    "x" * 10_000, "'; DROP TABLE Cache; --", "#", "@", "^",
)  # fmt: skip


def make_envelope(address: Address, clock: FakeClock, born: int = 1, **changes: Any) -> Envelope:
    """Return an envelope of an address, fresh for 100 s and kept for 200 s."""
    now = clock.wall()
    envelope = Envelope(
        epoch=EPOCH,
        born=born,
        created=now,
        fresh_until=now + 100,
        keep_until=now + 200,
        ttl=100.0,
        cost=0.25,
        scope=address.scope,
        tags=("a", "b"),
        codec=1,
        compressed=False,
        flags=0,
        version="",
        key=address.key,
        payload=f'"{born}"'.encode(),
    )
    return replace(envelope, **changes)


_CLAIMS = {
    "fences": ("test_bury_fences_the_older_out", "test_a_set_fences_beyond_its_own_end"),
    "scans": ("test_scan_shows_everything",),
    "plant": ("test_bytes_of_no_known_form_are_misses",),
}
"""Attribute of a contract to the claims that are made where it says so."""


class TierContract:
    """The claims of `tiers.base.Tier`. Subclass it in a test module and say how a tier is made.

    Attributes:
        fences: whether `bury` and `Guard.fence` keep the older out after the entry itself is gone;
            False where a position of the tier's own does (see `arrive`).
        scans: whether `scan` shows what is there.
        plant: a method (tier, address, data) that writes bytes under an address behind the tier's
            back; None: the claim about corrupt bytes is left out.
    """

    fences: ClassVar[bool] = True
    scans: ClassVar[bool] = True
    plant: ClassVar[Any] = None

    def __init_subclass__(cls, **options: Any) -> None:
        """Take out of the suite what this tier does not claim."""
        super().__init_subclass__(**options)
        for attribute, claims in _CLAIMS.items():
            if not getattr(cls, attribute):
                for claim in claims:
                    setattr(cls, claim, None)

    def make_tier(self, tmp_path: Path, clock: FakeClock) -> Tier:
        """Return a new tier; the suite closes it."""
        raise NotImplementedError("say how a tier is made: def make_tier(self, tmp_path, clock)")

    def arrive(self, tier: Tier, epoch: str, position: int) -> None:
        """Put a tier that holds a position of its own at one; nothing to do for others."""

    # -- fixtures ---------------------------------------------------------------------------

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture(params=["threads", "tasks"])
    def run(self, request: pytest.FixtureRequest) -> Iterator[Run]:
        if request.param == "threads":
            yield drive
            return
        with asyncio.Runner() as runner:
            yield lambda plan: runner.run(drive_async(plan))

    @pytest.fixture
    def tier(self, tmp_path: Path, clock: FakeClock, run: Run) -> Iterator[Tier]:
        tier = self.make_tier(tmp_path, clock)
        self.arrive(tier, EPOCH, 0)
        yield tier
        run(tier.close())

    @pytest.fixture
    def address(self) -> Address:
        return Address("region", "", "key")

    # -- reading and writing ----------------------------------------------------------------

    def test_what_was_put_comes_back(self, tier: Tier, address: Address, clock: FakeClock, run: Run) -> None:
        """Every field of an entry survives, deadlines to the millisecond."""
        put = make_envelope(
            address,
            clock,
            born=7,
            tags=("t", "é|\x00"),
            version="v2",
            compressed=True,
            codec=65,
            payload=bytes(range(256)),
        )
        assert run(tier.put_if_newer(address, put, Guard())) is Put.STORED
        assert run(tier.get_many([address], EPOCH)).found == {address: put}

    def test_nothing_is_there_at_first(self, tier: Tier, address: Address, run: Run) -> None:
        """An empty tier answers, and finds nothing."""
        reading = run(tier.get_many([address], EPOCH))
        assert (reading.found, reading.failed, reading.corrupt) == ({}, False, 0)
        assert run(tier.get_many([], EPOCH)).found == {}

    def test_an_entry_without_end_is_kept(self, tier: Tier, address: Address, clock: FakeClock, run: Run) -> None:
        """Deadlines of infinity are deadlines of infinity."""
        put = make_envelope(address, clock, fresh_until=math.inf, keep_until=math.inf, ttl=math.inf)
        assert run(tier.put_if_newer(address, put, Guard())) is Put.STORED
        assert run(tier.get_many([address], EPOCH)).found == {address: put}

    def test_large_values(self, tier: Tier, address: Address, clock: FakeClock, run: Run) -> None:
        """A value of 200 kB is replaced and removed like a small one."""
        large = make_envelope(address, clock, payload=b"x" * 200_000)
        small = make_envelope(address, clock, born=2)
        assert run(tier.put_if_newer(address, large, Guard())) is Put.STORED
        assert run(tier.get_many([address], EPOCH)).found == {address: large}
        assert run(tier.put_if_newer(address, large, Guard())) is Put.STORED
        assert run(tier.put_if_newer(address, small, Guard())) is Put.STORED
        assert run(tier.put_if_newer(address, large, Guard())) is Put.NEWER
        assert run(tier.remove([address], EPOCH)) == 1
        assert run(tier.get_many([address], EPOCH)).found == {}

    def test_many_addresses_at_once(self, tier: Tier, clock: FakeClock, run: Run) -> None:
        """More addresses than any statement takes are read in one call; what is missing is left out."""
        addresses = [Address("region", "", f"key-{number}") for number in range(1500)]
        there = addresses[::50]
        for address in there:
            run(tier.put_if_newer(address, make_envelope(address, clock), Guard()))
        found = run(tier.get_many(addresses, EPOCH)).found
        assert found == {address: make_envelope(address, clock) for address in there}

    @pytest.mark.parametrize("text", ODD_TEXTS, ids=lambda text: ascii(text)[:20])
    def test_any_text_is_a_key(self, tier: Tier, clock: FakeClock, run: Run, text: str) -> None:
        """Any Unicode, any length, any control character; and no key reaches another."""
        odd = Address(text[:50], "", text)
        near = [Address(text[:50], "", text + "x"), Address(text[:50], "", "x" + text), Address("other", "", text)]
        put = make_envelope(odd, clock)
        assert run(tier.put_if_newer(odd, put, Guard())) is Put.STORED
        assert run(tier.get_many([odd, *near], EPOCH)).found == {odd: put}
        assert run(tier.remove([odd], EPOCH)) == 1

    def test_scopes_and_regions_are_apart(self, tier: Tier, clock: FakeClock, run: Run) -> None:
        """The same key in two regions and three scopes is five entries."""
        addresses = [Address("a", "", "k"), Address("b", "", "k")]
        addresses += [Address("a", scope, "k") for scope in ("o:1", "o:1/u:2", "o:2")]
        for born, address in enumerate(addresses):
            run(tier.put_if_newer(address, make_envelope(address, clock, born), Guard()))
        found = run(tier.get_many(addresses, EPOCH)).found
        assert [found[address].born for address in addresses] == [0, 1, 2, 3, 4]

    # -- order ------------------------------------------------------------------------------

    def test_the_older_born_never_remains(self, tier: Tier, address: Address, clock: FakeClock, run: Run) -> None:
        """Newer and equal `born` replace, older do not."""
        first = make_envelope(address, clock, 5, payload=b"first")
        equal = make_envelope(address, clock, 5, payload=b"equal")
        older = make_envelope(address, clock, 4, payload=b"older")
        assert run(tier.put_if_newer(address, first, Guard())) is Put.STORED
        assert run(tier.put_if_newer(address, equal, Guard())) is Put.STORED
        assert run(tier.put_if_newer(address, older, Guard())) is Put.NEWER
        assert run(tier.get_many([address], EPOCH)).found == {address: equal}

    def test_born_is_a_number_not_a_text(self, tier: Tier, address: Address, clock: FakeClock, run: Run) -> None:
        """10 is newer than 9, and 2**60 newer than both."""
        for born in (9, 10, 2**60):
            assert run(tier.put_if_newer(address, make_envelope(address, clock, born), Guard())) is Put.STORED
        assert run(tier.put_if_newer(address, make_envelope(address, clock, 2**60 - 1), Guard())) is Put.NEWER

    def test_threads_that_put_at_once(self, tier: Tier, address: Address, clock: FakeClock, run: Run) -> None:
        """Whatever the order in which threads put, the newest remains."""
        borns = [[(step * 37 + offset * 11) % 101 for step in range(25)] for offset in range(4)]

        def work(mine: list[int]) -> None:
            for born in mine:
                drive(tier.put_if_newer(address, make_envelope(address, clock, born), Guard()))

        threads = [threading.Thread(target=work, args=(mine,)) for mine in borns]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert run(tier.get_many([address], EPOCH)).found[address].born == max(map(max, borns))

    # -- burying ----------------------------------------------------------------------------

    def test_bury_removes_the_older_only(self, tier: Tier, address: Address, clock: FakeClock, run: Run) -> None:
        """What was born before the position goes, what was born at it or later stays."""
        other = Address("region", "", "other")
        run(tier.put_if_newer(address, make_envelope(address, clock, 4), Guard()))
        run(tier.put_if_newer(other, make_envelope(other, clock, 5), Guard()))
        run(tier.bury(address, EPOCH, 5, 600.0))
        run(tier.bury(other, EPOCH, 5, 600.0))
        assert list(run(tier.get_many([address, other], EPOCH)).found) == [other]

    def test_bury_fences_the_older_out(self, tier: Tier, address: Address, clock: FakeClock, run: Run) -> None:
        """After `bury` nothing older comes in; what was born at its position does."""
        run(tier.bury(address, EPOCH, 5, 600.0))
        assert run(tier.put_if_newer(address, make_envelope(address, clock, 4), Guard())) is Put.NEWER
        assert run(tier.get_many([address], EPOCH)).found == {}
        assert run(tier.put_if_newer(address, make_envelope(address, clock, 5), Guard())) is Put.STORED

    def test_a_set_fences_beyond_its_own_end(self, tier: Tier, address: Address, clock: FakeClock, run: Run) -> None:
        """An entry put with a fence keeps the older out when it has itself run out, and when it was removed."""
        for short in (False, True):
            now = clock.wall()
            changes = {"fresh_until": now + 0.5, "keep_until": now + 0.5} if short else {}
            run(tier.put_if_newer(address, make_envelope(address, clock, 5, **changes), Guard(fence=600.0)))
            if short:
                clock.advance(1.0)
            else:
                run(tier.remove([address], EPOCH))
            assert run(tier.get_many([address], EPOCH)).found == {}
            assert run(tier.put_if_newer(address, make_envelope(address, clock, 4), Guard())) in REFUSED

    # -- epochs -----------------------------------------------------------------------------

    def test_epochs_never_meet(self, tier: Tier, address: Address, clock: FakeClock, run: Run) -> None:
        """An entry of another epoch is not found, and its `born` stands in nobody's way."""
        run(tier.put_if_newer(address, make_envelope(address, clock, 100), Guard()))
        self.arrive(tier, "epoch-2", 0)
        assert run(tier.get_many([address], "epoch-2")).found == {}
        young = make_envelope(address, clock, 1, epoch="epoch-2")
        assert run(tier.put_if_newer(address, young, Guard())) is Put.STORED
        assert run(tier.get_many([address], "epoch-2")).found == {address: young}

    # -- renewing, removing, ending ------------------------------------------------------------

    def test_renew_replaces_what_was_read(self, tier: Tier, address: Address, clock: FakeClock, run: Run) -> None:
        """Renewing changes the very entry that was read, and nothing that came in between."""
        run(tier.put_if_newer(address, make_envelope(address, clock, 5), Guard()))
        seen = run(tier.get_many([address], EPOCH)).found[address]
        renewed = replace(seen, fresh_until=seen.fresh_until + 50, keep_until=seen.keep_until + 50)
        assert run(tier.renew(address, seen, renewed)) is True
        assert run(tier.get_many([address], EPOCH)).found == {address: renewed}
        assert run(tier.renew(address, seen, renewed)) is False
        other = make_envelope(address, clock, 5, payload=b"other")
        run(tier.put_if_newer(address, other, Guard()))
        assert run(tier.renew(address, renewed, seen)) is False
        assert run(tier.get_many([address], EPOCH)).found == {address: other}

    def test_renew_brings_nothing_back(self, tier: Tier, address: Address, clock: FakeClock, run: Run) -> None:
        """What was buried or removed stays away, whoever still holds it in hand."""
        seen = make_envelope(address, clock, 5)
        for bury in (True, False):
            run(tier.put_if_newer(address, replace(seen, born=10 - bury), Guard()))
            run(tier.bury(address, EPOCH, 10, 600.0) if bury else tier.remove([address], EPOCH))
            assert run(tier.renew(address, replace(seen, born=10 - bury), seen)) is False
            assert run(tier.get_many([address], EPOCH)).found == {}

    def test_remove_counts_what_was_there(self, tier: Tier, clock: FakeClock, run: Run) -> None:
        """`remove` takes entries out and says how many there were."""
        addresses = [Address("region", "", str(number)) for number in range(3)]
        for address in addresses[:2]:
            run(tier.put_if_newer(address, make_envelope(address, clock), Guard()))
        assert run(tier.remove(addresses, EPOCH)) == 2
        assert run(tier.get_many(addresses, EPOCH)).found == {}
        assert run(tier.remove(addresses, EPOCH)) == 0
        assert run(tier.remove([], EPOCH)) == 0

    def test_the_end_is_the_keep_deadline(self, tier: Tier, address: Address, clock: FakeClock, run: Run) -> None:
        """Past `fresh_until` an entry is still there, for grace; at `keep_until` it is gone."""
        put = make_envelope(address, clock)
        run(tier.put_if_newer(address, put, Guard()))
        clock.advance(150)
        assert run(tier.get_many([address], EPOCH)).found == {address: put}
        clock.advance(50)
        assert run(tier.get_many([address], EPOCH)).found == {}
        assert run(self._scanned(tier)) == {}

    def test_scan_shows_everything(self, tier: Tier, clock: FakeClock, run: Run) -> None:
        """Walking in steps of 10 shows each entry at least once, odd and long keys included."""
        addresses = [Address("region", "o:1", f"key-{number}") for number in range(35)]
        addresses += [Address("odd|region", "", text) for text in ODD_TEXTS]
        wanted = {address: make_envelope(address, clock) for address in addresses}
        for address, envelope in wanted.items():
            run(tier.put_if_newer(address, envelope, Guard()))
        assert run(self._scanned(tier)) == wanted

    def test_bytes_of_no_known_form_are_misses(self, tier: Tier, address: Address, clock: FakeClock, run: Run) -> None:
        """Corrupt, truncated, foreign and newer bytes are counted and found by nobody, and can be replaced."""
        good = make_envelope(address, clock)
        for data in (b"", b"\x80\x04K\x01.", b"TC9" + b"0" * 100, b"TC1", b"TC1" + b"z" * 200, b"\x00" * 70_000):
            self.plant(tier, address, data)
            reading = run(tier.get_many([address], EPOCH))
            assert (reading.found, reading.failed, reading.corrupt) == ({}, False, 1), data[:10]
            assert run(tier.put_if_newer(address, good, Guard())) is Put.STORED, data[:10]
            assert run(tier.get_many([address], EPOCH)).found == {address: good}

    def test_a_closed_tier_opens_again(self, tier: Tier, address: Address, clock: FakeClock, run: Run) -> None:
        """`close` gives back handles; the next use takes new ones."""
        run(tier.close())
        run(tier.close())
        assert run(tier.put_if_newer(address, make_envelope(address, clock), Guard())) is Put.STORED
        run(tier.close())
        assert list(run(tier.get_many([address], EPOCH)).found) == [address]

    # -- inside -----------------------------------------------------------------------------

    @staticmethod
    def _scanned(tier: Tier) -> Plan[dict[Address, Envelope]]:
        found: dict[Address, Envelope] = {}
        cursor = 0
        while True:
            cursor, rows = yield from tier.scan(EPOCH, cursor, 10)
            found.update(rows)
            if not cursor:
                return found
