"""SQLAlchemy tells the cache what was changed: after the commit, and never after a rollback.

`wire` is all that a service needs. What a flush writes is noted; when the outermost transaction
has committed, each change becomes an event, `<entity>.saved` or `<entity>.deleted`, with the
object's columns as its payload. (Bulk statements, `session.execute(update(…))`, flush nothing:
call `handle_event` after their commit.) The rest of the file shows it at work on a real SQLite database.

    python examples/orm_events.py
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from sqlalchemy import ForeignKey, create_engine, event, inspect, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from tiercast import CacheConfig, CacheManager, EventBasedInvalidation, TiercastError

logger = logging.getLogger(__name__)


def wire(sessions: sessionmaker[Session], cache: CacheManager, **options: Any) -> Callable[[], None]:
    """Have what sessions commit invalidate; returns what ends it.

    Args:
        sessions: the factory whose sessions are watched.
        cache: told by `handle_event`, with `options` (for example `broadcast=True`).
    """

    def flushed(session: Session, _: Any) -> None:
        changes = session.info.setdefault("tiercast", [])
        # While it flushes, a session still tells what is new, changed and deleted; its column values are those written.
        changed = [thing for thing in session.dirty if session.is_modified(thing)]
        for kind, things in (("saved", [*session.new, *changed]), ("deleted", session.deleted)):
            changes.extend((f"{type(thing).__name__.lower()}.{kind}", columns(thing)) for thing in things)

    def committed(session: Session) -> None:
        # Called for savepoints too: they are not visible to anybody yet, and may still be rolled back.
        if session.in_nested_transaction():
            return
        for name, payload in session.info.pop("tiercast", []):
            try:
                cache.handle_event(name, payload, **options)
            except TiercastError:  # the commit stands; a rule that cannot be followed must be heard of
                logger.exception("the event %s was not handled", name)

    def rolled_back(session: Session, _: Any = None) -> None:
        # A savepoint that was rolled back leaves changes noted that did not happen: invalidating too much is safe.
        if not session.in_nested_transaction():
            session.info.pop("tiercast", None)

    wired = (("after_flush", flushed), ("after_commit", committed), ("after_rollback", rolled_back))
    for name, handler in wired:
        event.listen(sessions, name, handler)

    def unwire() -> None:
        for name, handler in wired:
            event.remove(sessions, name, handler)

    return unwire


def columns(thing: object) -> dict[str, Any]:
    """Return an object's columns, and as `old_<name>` what they were before the flush."""
    found: dict[str, Any] = {}
    for column in inspect(thing).mapper.column_attrs:
        found[column.key] = found[f"old_{column.key}"] = getattr(thing, column.key)
        before = inspect(thing).attrs[column.key].history.deleted
        if before:
            found[f"old_{column.key}"] = before[0]
    return found


# What follows is the demonstration.


class Base(DeclarativeBase):
    """The tables."""


class Team(Base):
    """A team."""

    __tablename__ = "teams"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class User(Base):
    """A user, in one team."""

    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    team_id: Mapped[int] = mapped_column(ForeignKey("teams.id"))


RULES = EventBasedInvalidation(
    {
        "user.saved": ["user:{id}", "tag:members:{team_id}", "tag:members:{old_team_id}"],
        "user.deleted": ["user:{id}", "tag:members:{team_id}"],
        "team.saved": ["team:{id}"],
    }
)


def main() -> None:
    """Read through the cache, change, roll back, and read again."""
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    with CacheManager(CacheConfig(invalidation=[RULES])) as cache:
        wire(sessions, cache)

        @cache.cached(key="user:{user_id}")
        def name_of(user_id: int) -> str:
            print(f"  asking the database for user {user_id}")
            with sessions() as session:
                return session.get_one(User, user_id).name

        @cache.cached(key="members:{team_id}", tags=("members:{team_id}",))
        def members(team_id: int) -> list[str]:
            print(f"  asking the database for team {team_id}")
            with sessions() as session:
                return list(session.scalars(select(User.name).where(User.team_id == team_id).order_by(User.id)))

        with sessions.begin() as session:
            session.add_all([Team(id=1, name="Red"), User(id=7, name="Ada", team_id=1)])
        print(name_of(7), members(1))
        print(name_of(7), members(1))

        with sessions() as session:
            session.get_one(User, 7).name = "Nobody"
            session.flush()
            session.rollback()
        print("after a rollback:", name_of(7), members(1))

        with sessions.begin() as session:
            session.get_one(User, 7).name = "Ada Lovelace"
            print("before the commit:", name_of(7))
        print("after the commit:", name_of(7), members(1))
    engine.dispose()


if __name__ == "__main__":
    main()
