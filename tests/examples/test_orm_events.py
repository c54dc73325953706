"""examples/orm_events.py on a real SQLite file: what is committed invalidates, and nothing else."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from tiercast import CacheConfig, CacheManager

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "orm_events.py"


@pytest.fixture(scope="module")
def orm() -> ModuleType:
    spec = importlib.util.spec_from_file_location("orm_events", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["orm_events"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sessions(orm: ModuleType, tmp_path: Path) -> Iterator[sessionmaker[Session]]:
    """A database with Ada in team 1, and an empty team 2."""
    engine = create_engine(f"sqlite:///{tmp_path / 'base.db'}")
    orm.Base.metadata.create_all(engine)
    made = sessionmaker(engine)
    with made.begin() as session:
        session.add_all(
            [orm.Team(id=1, name="Red"), orm.Team(id=2, name="Blue"), orm.User(id=7, name="Ada", team_id=1)]
        )
    yield made
    engine.dispose()


@pytest.fixture
def cache(orm: ModuleType, sessions: sessionmaker[Session]) -> Iterator[CacheManager]:
    """With everything cached, and the sessions wired to it."""
    with CacheManager(CacheConfig(invalidation=[orm.RULES])) as cache:
        fill(cache)
        unwire = orm.wire(sessions, cache)
        yield cache
        unwire()


KEYS = ["user:7", "user:8", "team:1", "members 1", "members 2"]


def fill(cache: CacheManager) -> None:
    for key in KEYS[:3]:
        cache.set(key, 1)
    for team in (1, 2):
        cache.set(f"members {team}", 1, tags=[f"members:{team}"])


def gone(cache: CacheManager) -> set[str]:
    return set(KEYS) - set(cache.multi_get(KEYS))


def test_a_commit_invalidates(orm: ModuleType, sessions: sessionmaker[Session], cache: CacheManager) -> None:
    """After it and not before: until then everybody else still sees the old row."""
    with sessions() as session:
        session.get_one(orm.User, 7).name = "Ada Lovelace"
        session.flush()
        assert gone(cache) == set()
        session.commit()
    assert gone(cache) == {"user:7", "members 1"}


def test_a_rollback_invalidates_nothing(orm: ModuleType, sessions: sessionmaker[Session], cache: CacheManager) -> None:
    """Neither at once nor with the next commit of the same session."""
    with sessions() as session:
        session.get_one(orm.User, 7).name = "Nobody"
        session.flush()
        session.rollback()
        session.get_one(orm.Team, 1).name = "Green"
        session.commit()
    assert gone(cache) == {"team:1"}


def test_new_and_deleted_rows(orm: ModuleType, sessions: sessionmaker[Session], cache: CacheManager) -> None:
    """An insert and a delete are changes as well."""
    with sessions.begin() as session:
        session.add(orm.User(id=8, name="Grace", team_id=2))
    assert gone(cache) == {"user:8", "members 2"}
    fill(cache)
    with sessions.begin() as session:
        session.delete(session.get_one(orm.User, 7))
    assert gone(cache) == {"user:7", "members 1"}


def test_who_moves_is_gone_from_both_places(
    orm: ModuleType, sessions: sessionmaker[Session], cache: CacheManager
) -> None:
    """The payload has the old value too."""
    with sessions.begin() as session:
        session.get_one(orm.User, 7).team_id = 2
    assert gone(cache) == {"user:7", "members 1", "members 2"}


def test_what_was_only_touched_is_no_change(
    orm: ModuleType, sessions: sessionmaker[Session], cache: CacheManager
) -> None:
    """Setting a column to what it is writes nothing."""
    with sessions.begin() as session:
        session.get_one(orm.User, 7).name = "Ada"
    assert gone(cache) == set()


def test_a_savepoint_is_no_commit(orm: ModuleType, sessions: sessionmaker[Session], cache: CacheManager) -> None:
    """What is released in a savepoint and rolled back with the whole invalidates nothing."""
    with sessions() as session:
        with session.begin_nested():
            session.get_one(orm.User, 7).name = "Nobody"
        assert gone(cache) == set()
        session.rollback()
    assert gone(cache) == set()


def test_a_savepoint_rolled_back_does_not_hide_the_rest(
    orm: ModuleType, sessions: sessionmaker[Session], cache: CacheManager
) -> None:
    """What else the transaction changed, before and after, is handled with its commit."""
    with sessions() as session:
        session.get_one(orm.Team, 1).name = "Green"
        session.flush()
        with pytest.raises(LookupError), session.begin_nested():
            raise LookupError
        session.get_one(orm.User, 7).name = "Ada Lovelace"
        session.commit()
    assert gone(cache) == {"team:1", "user:7", "members 1"}


def test_a_commit_that_fails_invalidates_nothing(
    orm: ModuleType, sessions: sessionmaker[Session], cache: CacheManager
) -> None:
    """The flush that the database refuses, and what was flushed before it."""
    with pytest.raises(IntegrityError), sessions.begin() as session:
        session.get_one(orm.Team, 1).name = "Green"
        session.flush()
        session.add(orm.User(id=7, name="Impostor", team_id=1))
    assert gone(cache) == set()


def test_a_rule_that_cannot_be_followed_does_not_undo_a_commit(
    orm: ModuleType, sessions: sessionmaker[Session], cache: CacheManager, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It is logged; the other changes are handled."""
    handle = cache.handle_event

    def fails(event: str, payload: Any, **options: Any) -> Any:
        return handle(event, {} if event == "team.saved" else payload, **options)

    monkeypatch.setattr(cache, "handle_event", fails)
    with sessions.begin() as session:
        session.get_one(orm.Team, 1).name = "Green"
        session.get_one(orm.User, 7).name = "Ada Lovelace"
    assert gone(cache) == {"user:7", "members 1"}
    assert "team.saved" in caplog.text


def test_unwired_sessions_tell_nobody(orm: ModuleType, sessions: sessionmaker[Session]) -> None:
    """What `wire` returned ends it."""
    with CacheManager(CacheConfig(invalidation=[orm.RULES])) as cache:
        fill(cache)
        orm.wire(sessions, cache)()
        with sessions.begin() as session:
            session.get_one(orm.User, 7).name = "Ada Lovelace"
        assert gone(cache) == set()
