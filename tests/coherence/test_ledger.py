"""The ledger against a reference that remembers every record: never more hopeful, and exact where no bound is met."""

from __future__ import annotations

import fnmatch
import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiercast.coherence.ledger import MAX_REGIONS, Ledger, Verdict
from tiercast.coherence.records import Draft, Kind, Record
from tiercast.keys import decode_pattern_target, decode_target, encode_pattern_target, encode_target

EPOCH = "e1"
REGIONS = ("r1", "r2")
SCOPES = ("", "o:1", "o:1/u:2", "o:12")
KEYS = ("a", "ab", "b", "a:1")
TAGS = ("t1", "t2")
GLOBS = ("a*", "*", "?b", "[ab]", "a", "a?", "*1", "a:*")

ALIVE, STALE, DEAD, UNKNOWN = Verdict.ALIVE, Verdict.STALE, Verdict.DEAD, Verdict.UNKNOWN

every_region = st.sampled_from(("", *REGIONS))
one_region = st.sampled_from(REGIONS)
soft = st.booleans()


def some(strategy):
    return st.lists(strategy, min_size=1, max_size=2, unique=True).map(tuple)


key_targets = st.builds(encode_target, st.sampled_from(SCOPES), st.sampled_from(KEYS))
patterns = st.builds(encode_pattern_target, st.sampled_from(SCOPES), st.sampled_from(GLOBS))
drafts_of = [
    st.builds(Draft, st.just(Kind.KEY), one_region, some(key_targets), soft),
    st.builds(Draft, st.just(Kind.PATTERN), one_region, some(patterns), soft),
    st.builds(Draft, st.just(Kind.TAG), every_region, some(st.sampled_from(TAGS)), soft),
    st.builds(Draft, st.just(Kind.SCOPE), every_region, some(st.sampled_from(SCOPES[1:])), soft),
    st.builds(Draft, st.just(Kind.REGION), st.just(""), some(one_region), soft),
    st.builds(Draft, st.just(Kind.ALL), st.just(""), st.just(()), soft),
]
drafts = st.one_of(drafts_of)
# Of all kinds, or crowded: many of one kind, so that bounds are met and records lie close together.
histories = st.one_of(
    st.lists(drafts, max_size=25),
    *(st.lists(one_kind, min_size=5, max_size=25) for one_kind in drafts_of[:4]),
)


@dataclass(frozen=True)
class Thing:
    """An entry, as far as invalidation is concerned."""

    region: str
    scope: str
    key: str
    tags: tuple[str, ...]


things = st.builds(
    Thing,
    one_region,
    st.sampled_from(SCOPES),
    st.sampled_from(KEYS),
    st.lists(st.sampled_from(TAGS), unique=True, max_size=2).map(tuple),
)


def below(scope, path):
    return not path or scope == path or scope.startswith(path + "/")


def matches(draft, thing):
    """The meaning of the six kinds, spelled out."""
    if draft.kind is Kind.REGION:
        return thing.region in draft.targets
    if draft.region not in ("", thing.region):
        return False
    if draft.kind is Kind.KEY:
        return (thing.scope, thing.key) in map(decode_target, draft.targets)
    if draft.kind is Kind.PATTERN:
        return any(
            scope == thing.scope and fnmatch.fnmatchcase(thing.key, glob)
            for scope, glob in map(decode_pattern_target, draft.targets)
        )
    if draft.kind is Kind.TAG:
        return not set(draft.targets).isdisjoint(thing.tags)
    return draft.kind is Kind.ALL or any(below(thing.scope, path) for path in draft.targets)


@dataclass
class Reference:
    """Every record that there ever was; an entry is dead iff one that matches is later than its born."""

    records: list[Draft] = field(default_factory=list)

    def judge(self, thing, born, vouched=0):
        verdict = ALIVE
        for position, draft in enumerate(self.records, 1):
            after = max(born, vouched) if draft.kind is Kind.KEY else born
            if position > after and matches(draft, thing):
                if not draft.soft:
                    return DEAD
                verdict = STALE
        return verdict

    def between(self, thing, after, before, ignoring=()):
        return any(
            after < position < before and position not in ignoring and matches(draft, thing)
            for position, draft in enumerate(self.records, 1)
        )


def place(draft, position, epoch=EPOCH):
    return Record(
        draft.kind, draft.region, draft.targets, draft.soft, draft.origin, draft.sent, epoch=epoch, position=position
    )


def applied(history, **bounds):
    ledger = Ledger(**bounds)
    ledger.reset(EPOCH, 0)
    for region in REGIONS:
        ledger.region(region)
    for position, draft in enumerate(history, 1):
        ledger.apply(place(draft, position))
        ledger.check()
    return ledger, Reference(list(history))


def judged(ledger, thing, born, vouched=0, local=None):
    return ledger.judge(thing.region, thing.scope, thing.key, EPOCH, born, thing.tags, vouched, local)


def floors(ledger, thing):
    reaches = (ledger.everywhere, ledger.region(thing.region).stamps)
    return max(ledger.floor, *(marks.floor for reach in reaches for marks in (reach.hard, reach.soft)))


@given(histories, things, st.integers(0, 25))
def test_within_its_bounds_the_ledger_is_the_rule(history, thing, born):
    """Dead iff a hard record matches that is later, stale iff only a soft one does."""
    ledger, reference = applied(history)
    assert reference.judge(thing, born) == judged(ledger, thing, born)


HOPE = {ALIVE: 2, STALE: 1, UNKNOWN: 0, DEAD: 0}


@settings(max_examples=300)
@given(histories, things, st.integers(0, 25), st.integers(0, 25), st.integers(1, 4), st.integers(1, 4))
def test_past_its_bounds_the_ledger_errs_to_the_safe_side_only(history, thing, born, vouched, ring, stamps):
    """Whatever was forgotten, nothing dead is alive; and without a floor above an entry, nothing alive is dead."""
    ledger, reference = applied(history, key_ring=ring, stamps=stamps)
    verdict, truth = judged(ledger, thing, born, vouched), reference.judge(thing, born, vouched)
    assert HOPE[verdict] <= HOPE[truth]
    if floors(ledger, thing) <= born:
        assert reference.judge(thing, born) == verdict


@given(histories, things, st.lists(st.integers(0, 25), min_size=1, max_size=8))
def test_an_entry_of_memory_that_is_judged_now_and_then_fares_as_if_judged_in_full(history, thing, looks):
    """Key records remove at once, the checkpoint says when the rest is to be judged, and only against what is new."""
    ledger, reference = applied([])
    view = ledger.region(thing.region)
    checked, alive, stale = view.checkpoint, True, False
    for position, draft in enumerate(history, 1):
        reference.records.append(draft)
        for region, scope, key, _, soft_ in ledger.apply(place(draft, position)):
            if (region, scope, key) == (thing.region, thing.scope, thing.key):
                alive, stale = alive and soft_, stale or soft_
        if alive and position in looks and checked != view.checkpoint:
            checkpoint = view.checkpoint
            verdict = view.judge_stamps(thing.scope, thing.key, 0, thing.tags, checked.tick)
            alive, stale, checked = verdict is not DEAD, stale or verdict is STALE, checkpoint
        truth = reference.judge(thing, 0)
        if checked == view.checkpoint:
            assert truth == (DEAD if not alive else STALE if stale else ALIVE)
        elif not alive:
            assert truth is DEAD


@settings(max_examples=300)
@given(
    histories,
    things,
    st.integers(0, 25),
    st.integers(1, 26),
    st.sets(st.integers(1, 25), max_size=3),
    st.integers(1, 8),
)
def test_restore_since_never_overlooks_a_record_between(history, thing, after, before, ignoring, bound):
    """Not knowing counts as a match, whatever was forgotten or hidden by the caller's own later records."""
    ledger, reference = applied(history, key_ring=bound, stamps=bound)
    found = ledger.matches_between(
        thing.region, thing.scope, thing.key, thing.tags, EPOCH, after, before, ignoring=ignoring
    )
    assert found or not reference.between(thing, after, before, ignoring)


@given(histories, things, st.integers(0, 25))
def test_restore_since_is_exact_for_one_own_key_record(history, thing, after):
    """With one own record at the head, and nothing forgotten, a value is restored wherever it may be."""
    own = Draft(Kind.KEY, thing.region, (encode_target(thing.scope, thing.key),))
    ledger, reference = applied([*history, own])
    before = len(history) + 1
    found = ledger.matches_between(thing.region, thing.scope, thing.key, thing.tags, EPOCH, after, before)
    assert reference.between(thing, after, before) == found


def test_restore_since_ignores_the_tags_of_its_own_batch():
    """A write that invalidates the tag that its own value carries still stores that value."""
    thing = Thing("r1", "", "a", ("t1",))
    batch = [Draft(Kind.KEY, "r1", (encode_target("", "a"),)), Draft(Kind.TAG, "", ("t1",))]
    ledger, _ = applied([Draft(Kind.KEY, "r1", (encode_target("", "b"),)), *batch])

    def between(**own):
        return ledger.matches_between(thing.region, "", "a", thing.tags, EPOCH, 1, 3, **own)

    assert between(ignoring=range(2, 4)) is False
    assert between() is True, "the key record at 2 is somebody else's"


def test_restore_since_below_the_ring_s_floor_counts_as_a_match_unless_a_tier_vouches():
    """A key record that the ring forgot may be the one that came between."""
    history = [Draft(Kind.KEY, "r1", (f"|{name}",)) for name in ("a", "b", "c")]
    ledger, _ = applied(history, key_ring=2)
    assert ledger.floor == 1
    ledger.apply(place(Draft(Kind.KEY, "r1", ("|x",)), 4))
    assert ledger.matches_between("r1", "", "x", (), EPOCH, 0, 4) is True
    assert ledger.matches_between("r1", "", "x", (), EPOCH, 2, 4) is False
    assert ledger.matches_between("r1", "", "x", (), EPOCH, 0, 4, vouched=3) is False


def test_restore_since_across_epochs_or_ahead_of_the_ledger_counts_as_a_match():
    """Positions of another epoch are never compared, and what is not applied yet is not known."""
    ledger, _ = applied([Draft(Kind.TAG, "", ("t1",))])
    assert ledger.matches_between("r1", "", "a", (), "e2", 0, 1) is True
    assert ledger.matches_between("r1", "", "a", (), EPOCH, 1, 2) is True
    assert ledger.matches_between("r1", "", "a", (), EPOCH, 0, 1) is False


@given(histories, histories, things, st.data())
def test_a_waiting_record_kills_all_but_what_was_loaded_here_after_it(history, waiting, thing, data):
    """What was begun before the mark, and what comes from a tier below, is dead; what was begun after it lives."""
    ledger, reference = applied(history)
    born = len(history)
    begun = data.draw(st.integers(0, len(waiting)))
    local = ledger.local_sequence
    for number, draft in enumerate(waiting):
        if number == begun:
            local = ledger.local_sequence
        ledger.mark_pending(draft)
    if begun == len(waiting):
        local = ledger.local_sequence
    ledger.check()
    after = Reference(waiting[begun:])
    assert after.judge(thing, 0) == judged(ledger, thing, born, local=local)
    assert Reference(waiting).judge(thing, 0) == judged(ledger, thing, born)
    ledger.clear_pending()
    assert reference.judge(thing, born) == judged(ledger, thing, born)


@given(histories, things, st.lists(st.integers(0, 25), min_size=1, max_size=8))
def test_an_entry_of_memory_meets_each_waiting_record_once(waiting, thing, looks):
    """Waiting records other than keys move checkpoints, and an entry judged since is judged against the newer only."""
    ledger, _ = applied([])
    view = ledger.region(thing.region)
    checked, alive, stale = view.checkpoint, True, False
    rest = [draft for draft in waiting if draft.kind is not Kind.KEY]
    for number, draft in enumerate(rest, 1):
        ledger.mark_pending(draft)
        if number in looks and checked != view.checkpoint and alive:
            checkpoint = view.checkpoint
            verdict = view.judge_stamps(thing.scope, thing.key, 0, thing.tags, checked.tick)
            alive, stale, checked = verdict is not DEAD, stale or verdict is STALE, checkpoint
        truth = Reference(rest[:number]).judge(thing, 0)
        if checked == view.checkpoint:
            assert truth == (DEAD if not alive else STALE if stale else ALIVE)


def test_what_was_judged_after_a_mark_is_not_judged_by_it_again():
    """An entry taken into memory after a record was queued survives the judging that another record causes."""
    ledger, _ = applied([])
    view = ledger.region("r1")
    ledger.mark_pending(Draft(Kind.TAG, "", ("t1",)))
    checked = view.checkpoint
    ledger.mark_pending(Draft(Kind.TAG, "", ("t2",)))
    assert view.checkpoint != checked
    assert view.judge_stamps("", "a", 0, ("t1",), checked.tick) is ALIVE
    assert view.judge_stamps("", "a", 0, ("t1", "t2"), checked.tick) is DEAD


def test_marks_made_since_the_outbox_was_looked_at_are_kept():
    """Whoever saw the outbox empty before a record was queued must not clear that record's mark."""
    ledger, _ = applied([])
    seen = ledger.local_sequence
    ledger.mark_pending(Draft(Kind.TAG, "", ("t1",)))
    assert ledger.clear_pending(seen) is False
    thing = Thing("r1", "", "a", ("t1",))
    assert judged(ledger, thing, 0) is DEAD
    assert ledger.clear_pending(ledger.local_sequence) is True
    assert judged(ledger, thing, 0) is ALIVE


def test_waiting_keys_beyond_the_ring_count_as_everything():
    """More queued keys than the ring holds kill everything loaded before, never too little."""
    ledger, _ = applied([], key_ring=3)
    for number in range(4):
        ledger.mark_pending(Draft(Kind.KEY, "r1", (encode_target("", f"k{number}"),)))
    assert judged(ledger, Thing("r2", "", "other", ()), 0) is DEAD
    assert judged(ledger, Thing("r2", "", "other", ()), 0, local=ledger.local_sequence) is ALIVE


@given(histories, st.integers(0, 25), things, st.integers(0, 25))
def test_a_snapshot_of_the_stamps_judges_like_the_records_themselves(history, cut, thing, born):
    """A process that starts from a snapshot and one that applied every record agree, but for keys before it."""
    cut = min(cut, len(history))
    stamps = [place(draft, position) for position, draft in enumerate(history, 1)]
    ledger = Ledger()
    ledger.reset(EPOCH, cut, stamps)  # those beyond the cut: the log moved on while the stamps were read
    ledger.check()
    for position in range(cut + 1, len(history) + 1):
        ledger.apply(stamps[position - 1])
        ledger.check()
    born = min(born, len(history))
    verdict, truth = judged(ledger, thing, born, vouched=cut), Reference(history).judge(thing, born, vouched=cut)
    assert HOPE[verdict] <= HOPE[truth]
    if born >= cut:
        assert truth == verdict
    else:
        assert judged(ledger, thing, born) in (DEAD, UNKNOWN)


def test_a_new_epoch_kills_whatever_was_of_the_old_one():
    """Positions of two epochs are never compared."""
    ledger, _ = applied([Draft(Kind.TAG, "", ("t9",))] * 5)
    before = ledger.region("r1").checkpoint
    ledger.reset("e2", 2)
    assert ledger.region("r1").checkpoint != before
    assert ledger.judge("r1", "", "a", EPOCH, 5, ()) is DEAD
    assert ledger.judge("r1", "", "a", "e2", 2, ()) is ALIVE
    assert ledger.judge("r1", "", "a", "e2", 1, ()) is UNKNOWN
    assert ledger.judge("r1", "", "a", "e2", 1, (), 2) is ALIVE


def test_a_snapshot_s_floor_kills_what_is_below_it_and_is_counted():
    """Where the log let stamps go, entries born below are dead."""
    ledger = Ledger()
    ledger.reset(EPOCH, 10, (), 7)
    assert judged(ledger, Thing("r1", "", "a", ()), 6, vouched=10) is DEAD
    assert judged(ledger, Thing("r1", "", "a", ()), 7, vouched=10) is ALIVE
    assert ledger.floor_hits == 1


@pytest.mark.parametrize(
    "record", [Record(Kind.ALL, "", (), epoch=EPOCH, position=2), Record(Kind.ALL, "", (), epoch="e2", position=1)]
)
def test_no_position_is_jumped_and_no_epoch_mixed(record):
    """The ledger applies the next record of its epoch and no other."""
    ledger, _ = applied([])
    with pytest.raises(ValueError, match="does not follow"):
        ledger.apply(record)
    assert (EPOCH, 0) == (ledger.epoch, ledger.applied)


@pytest.mark.parametrize("kind", [Kind.KEY, Kind.PATTERN])
def test_a_target_that_cannot_be_read_counts_as_its_whole_region(kind):
    """What a record of the log means by a broken target is not known, so nothing of the region survives it."""
    ledger, _ = applied([Draft(kind, "r1", ("no bar",))])
    assert judged(ledger, Thing("r1", "o:1", "a", ()), 0) is DEAD
    assert judged(ledger, Thing("r2", "o:1", "a", ()), 0) is ALIVE


def test_a_soft_record_does_not_hide_an_earlier_hard_one():
    """Hard and soft positions are kept apart, for keys as for stamps."""
    target = encode_target("", "a")
    for draft in (Draft(Kind.KEY, "r1", (target,)), Draft(Kind.TAG, "r1", ("t1",))):
        ledger, _ = applied([draft, Draft(draft.kind, "r1", draft.targets, soft=True)])
        thing = Thing("r1", "", "a", ("t1",))
        assert [DEAD, STALE, ALIVE] == [judged(ledger, thing, born) for born in (0, 1, 2)]


def test_a_pattern_reaches_its_own_scope_only():
    """A pattern names the scope whose keys it means; scopes below are reached by `evict_by_scope`."""
    ledger, _ = applied([Draft(Kind.PATTERN, "r1", (encode_pattern_target("o:1", "*"),))])
    assert [DEAD, ALIVE, ALIVE] == [judged(ledger, Thing("r1", scope, "a", ()), 0) for scope in ("o:1", "o:1/u:2", "")]


def test_a_glob_is_matched_against_what_was_judged_before_it_only_once():
    """The first pattern after an entry was judged is not skipped; the ones before are."""
    ledger, _ = applied([Draft(Kind.PATTERN, "r1", ("|?b",))])
    view = ledger.region("r1")
    checked = view.checkpoint
    ledger.apply(place(Draft(Kind.PATTERN, "r1", ("|[ab]",)), 2))
    assert view.judge_stamps("", "a", 0, (), checked.tick) is DEAD
    assert view.judge_stamps("", "ab", 0, (), checked.tick) is ALIVE, "judged before"
    assert view.judge_stamps("", "ab", 0, ()) is DEAD, "never judged"


def test_stamps_that_a_sweep_proved_useless_go_without_raising_the_floor():
    """Forgetting on proof kills nothing that is alive."""
    ledger, _ = applied(
        [Draft(Kind.TAG, "", ("t1",)), Draft(Kind.PATTERN, "r1", ("|?",)), Draft(Kind.SCOPE, "", ("o:1",))]
    )
    assert ledger.forget_stamps(3) == 2
    ledger.check()
    assert judged(ledger, Thing("r1", "", "a", ("t1",)), 0) is ALIVE
    assert judged(ledger, Thing("r1", "o:1", "a", ()), 0) is DEAD


def test_names_of_regions_from_outside_do_not_grow_without_end():
    """Beyond the bound, records of further regions count for every region."""
    ledger, _ = applied([])
    for position, number in enumerate(range(MAX_REGIONS), 1):
        ledger.apply(place(Draft(Kind.TAG, f"x{number}", ("t1",)), position))
    assert len(ledger.regions) == MAX_REGIONS
    checkpoint = ledger.region("r1").checkpoint
    ledger.apply(place(Draft(Kind.TAG, "one too many", ("t2",)), MAX_REGIONS + 1))
    assert ledger.region("r1").checkpoint != checkpoint
    assert judged(ledger, Thing("r1", "", "a", ("t2",)), MAX_REGIONS) is DEAD
    assert len(ledger.regions) == MAX_REGIONS


def test_the_ring_and_the_stamps_stay_within_their_bounds():
    """Any number of different keys and tags leaves at most what the settings allow."""
    ledger, _ = applied([], key_ring=10, stamps=10)
    for position, number in zip(itertools.count(1), range(200), strict=False):
        kind, target = (Kind.KEY, f"|k{number}") if number % 2 else (Kind.TAG, f"t{number}")
        ledger.apply(place(Draft(kind, "r1", (target,), soft=number % 3 == 0), position))
        ledger.check()
    sizes = ledger.sizes()
    assert (10, 10) == (sizes["keys"], sizes["stamps"])
