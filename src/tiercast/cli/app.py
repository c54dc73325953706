"""The commands of `tiercast`."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live
from rich.table import Table

from ..coherence.records import Draft, Kind, Record
from ..config import DEFAULT_REGION
from ..errors import BarrierTimeout, DeliveryError
from ..invalidations import pattern_draft
from ..keys import encode_target, validate_key
from ..loading.reading import read
from ..observing.fleet import fleet_of
from ..observing.inspect import inspect
from ..plans import drive
from ..region import MISS, seconds_of, tags_of
from ..tiers.entry import Address
from .doctor import Finding, examine
from .holdings import described, print_holding
from .session import FAILED, MISUSED, console, errors, escape, fail, opened
from .tables import fleet_table, seconds, table, totals

if TYPE_CHECKING:
    from ..manager import CacheManager

app = typer.Typer(
    help="Look at a fleet of tiercast caches, and tell it what changed.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False,
)  # fmt: skip
log_app = typer.Typer(help="The log of invalidations.", no_args_is_help=True)
app.add_typer(log_app, name="log")

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="A .toml or .json file; else the environment (TIERCAST_*, REDIS_URL)."),
]
Region = Annotated[str | None, typer.Option("--region", "-r", help="The region; else the default one.")]
Scope = Annotated[str, typer.Option("--scope", help="A scope path, such as organization:7/user:9.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def run() -> None:
    """Run the command line."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal of few characters is shown what others are
        sys.stdout.reconfigure(errors="backslashreplace")
    app(prog_name="tiercast")


# -- looking at the fleet ---------------------------------------------------------------------------


@app.command()
def status(
    config: Config = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on showing it.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between two looks.")] = 2.0,
    as_json: Json = False,
) -> None:
    """Show the processes of the fleet."""
    with opened(config) as cache:
        runtime = cache._runtime

        def fleet() -> list[Any]:
            return drive(fleet_of(runtime, strict=True))

        if as_json:
            print_json([process.to_dict() for process in fleet()])
            return
        if not watch:
            found = fleet()
            if not found:
                fail(f"no process of the fleet {runtime.fleet!r} is there")
            console.print(fleet_table(runtime.fleet, found, console.width))
            return
        with Live(console=console, auto_refresh=False) as live:
            try:
                while True:
                    live.update(fleet_table(runtime.fleet, fleet(), console.width), refresh=True)
                    time.sleep(max(0.1, interval))
            except KeyboardInterrupt:
                return


@app.command()
def stats(config: Config = None, as_json: Json = False) -> None:
    """Show the figures of all live processes together."""
    with opened(config) as cache:
        runtime = cache._runtime
        fleet = drive(fleet_of(runtime, strict=True))
        tail = drive(runtime.log.read(("", 0)))
        figures = totals(fleet)
        figures["log"] = {
            "kind": runtime.log.kind,
            "epoch": tail.head.epoch,
            "position": tail.head.position,
            "carried": tail.head.carried,
        }
        if as_json:
            print_json({"fleet": runtime.fleet, **figures, "members": [process.to_dict() for process in fleet]})
            return
        shown = table("figure", "value", right=["value"])
        for name, value in {**figures, **{f"log {key}": value for key, value in figures.pop("log").items()}}.items():
            if name != "log":
                shown.add_row(name.replace("_", " "), escape(figure(name, value)))
        console.print(shown)


def figure(name: str, value: Any) -> str:
    """Return a figure as people read it."""
    if name == "hit_rate":
        return f"{value:.1%}"
    if name == "oldest_proof":
        return seconds(value)
    if isinstance(value, list):
        return ", ".join(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


# -- one key ----------------------------------------------------------------------------------------


@app.command()
def get(key: str, config: Config = None, region: Region = None, scope: Scope = "") -> None:
    """Print the value of a key as JSON, from whichever tier has it."""
    with opened(config) as cache:
        address = place(cache, key, region, scope)
        cache._runtime.ready()
        cache.coherence.start()
        entry = drive(read(cache._runtime.region(address.region), address))
        if entry is MISS:
            fail(f"nothing is cached for {key!r}")
        print_json(entry.value)


@app.command("inspect")
def inspect_key(
    key: str, config: Config = None, region: Region = None, scope: Scope = "", as_json: Json = False
) -> None:
    """Show what each shared tier holds of a key, whether it lives, and by which record it does not."""
    with opened(config) as cache:
        address = place(cache, key, region, scope)
        holdings = drive(inspect(cache._runtime, address))
        now = time.time()
        if as_json:
            print_json([described(holding, now) for holding in holdings])
        else:
            for holding in holdings:
                print_holding(holding, now)
        if not any(holding.state in {"alive", "stale"} for holding in holdings):
            sys.exit(FAILED)


def place(cache: CacheManager, key: str, region: str | None, scope: str) -> Address:
    """Return the address that a command names."""
    try:
        return Address(region or DEFAULT_REGION, cache.config.scopes.check_path(scope), validate_key(key))
    except ValueError as exc:
        fail(str(exc), MISUSED)


# -- telling the fleet --------------------------------------------------------------------------------


@app.command()
def invalidate(
    config: Config = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may be given again.")] = None,
    scope: Annotated[
        list[str] | None, typer.Option(help="A scope path, with all below it; may be given again.")
    ] = None,
    pattern: Annotated[
        list[str] | None, typer.Option(help="A glob over the keys of a region; may be given again.")
    ] = None,
    key: Annotated[list[str] | None, typer.Option(help="A key; may be given again.")] = None,
    region: Region = None,
    soft: Annotated[bool, typer.Option(help="Mark stale instead of dead.")] = False,
    barrier: Annotated[
        float | None, typer.Option(help="Wait so many seconds until every live process has applied it.")
    ] = None,
    yes: Yes = False,
) -> None:
    """Say that something changed, to every process of the fleet."""
    if not (tag or scope or pattern or key):
        fail("say what to invalidate: --tag, --scope, --pattern or --key", MISUSED)
    with opened(config) as cache:
        try:
            drafts = drafts_of(cache, tag or (), scope or (), pattern or (), key or (), region, soft=soft)
            seconds_of(barrier, "barrier")
        except ValueError as exc:
            fail(str(exc), MISUSED)
        confirm(f"Invalidate {described_drafts(drafts)} in the fleet {cache._runtime.fleet!r}?", yes=yes)
        try:
            result = drive(cache._invalidate(drafts, False, barrier, True))
        except BarrierTimeout as exc:
            fail(str(exc))
        except DeliveryError as exc:  # it may still have arrived: perhaps only the answer was lost
            fail(f"the log cannot be reached: {exc.__cause__ or exc}; say it again when it answers, twice does no harm")
        applied = ", applied by every live process" if barrier is not None else ""
        console.print(f"position {result.position}{applied}")


def drafts_of(
    cache: CacheManager,
    tags: Sequence[str],
    scopes: Sequence[str],
    patterns: Sequence[str],
    keys: Sequence[str],
    region: str | None,
    *,
    soft: bool,
) -> list[Draft]:
    """Return the records that a command asks for.

    Raises:
        ValueError: some name cannot be.
    """
    reach, own = region or "", region or DEFAULT_REGION
    drafts = []
    if tags:
        drafts.append(Draft(Kind.TAG, reach, tags_of(tags), soft))
    if scopes:
        drafts.append(Draft(Kind.SCOPE, reach, tuple(cache.config.scopes.check_path(path) for path in scopes), soft))
    drafts += [pattern_draft(own, "", pattern, soft=soft) for pattern in patterns]
    if keys:
        drafts.append(Draft(Kind.KEY, own, tuple(encode_target("", validate_key(each)) for each in keys), soft))
    return drafts


def described_drafts(drafts: Sequence[Draft]) -> str:
    """Return what some records name, for people."""
    return "; ".join(f"{draft.kind.value} {', '.join(draft.targets) or 'everything'}" for draft in drafts)


@app.command()
def purge(
    config: Config = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may be given again.")] = None,
    scope: Annotated[str, typer.Option(help="A scope path, with all below it.")] = "",
    pattern: Annotated[str | None, typer.Option(help="A glob over the keys of a region.")] = None,
    region: Region = None,
    yes: Yes = False,
) -> None:
    """Invalidate, and remove physically now, what matches all that is given."""
    if not (tag or scope or pattern or region):
        fail("say what to purge: --tag, --scope, --pattern or --region", MISUSED)
    with opened(config) as cache:
        parts = [("tag", ", ".join(tag or ())), ("scope", scope), ("pattern", pattern or ""), ("region", region or "")]
        what = ", ".join(f"{name} {value}" for name, value in parts if value)
        confirm(f"Remove for good what matches {what} in the fleet {cache._runtime.fleet!r}?", yes=yes)
        place_of = scope_place(cache, scope)
        try:
            counts = cache.purge(tags=tag or (), pattern=pattern, region=region, **place_of)
        except ValueError as exc:
            fail(str(exc), MISUSED)
        counts.pop("local", None)  # this command's own memory, which holds nothing
        shown = table("tier", "entries removed", right=["entries removed"])
        for name, count in counts.items():
            shown.add_row(name, str(count))
        console.print(shown)


def scope_place(cache: CacheManager, path: str) -> dict[str, Any]:
    """Return a scope path as the keyword arguments of an operation."""
    if not path:
        return {}
    from ..keys import split_path

    try:
        cache.config.scopes.check_path(path)
        levels = split_path(path)
        names = cache.config.scopes.params(levels[-1][0])
    except ValueError as exc:
        fail(str(exc), MISUSED)
    return {"scope": levels[-1][0], **dict(zip(names, (value for _, value in levels), strict=True))}


def confirm(question: str, *, yes: bool) -> None:
    """Ask, unless told not to; end where the answer is no."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail("this changes what the fleet serves: say --yes where nobody can be asked", MISUSED)
    if not typer.confirm(question):
        fail("nothing was changed")


# -- the log ------------------------------------------------------------------------------------------


@log_app.command("tail")
def tail_log(
    config: Config = None,
    last: Annotated[int, typer.Option("--last", "-n", help="Records before now to begin with.")] = 10,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Go on with what comes.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show the records of the log as they come."""
    with opened(config) as cache:
        try:
            for record in records(cache, last, follow=follow):
                print_record(record, as_json=as_json)
        except KeyboardInterrupt:
            return


def records(cache: CacheManager, last: int, *, follow: bool) -> Iterator[Record]:
    """Yield the last records, and then what comes."""
    log = cache._runtime.log
    head = drive(log.read(("", 0))).head
    epoch, position = head.epoch, max(0, head.position - max(0, last))
    while True:
        tail = drive(log.read((epoch, position)))
        if tail.records is None:
            errors.print(
                f"[yellow]the log does not reach back to {position} of {escape(epoch)}; going on from its head[/yellow]"
            )
            epoch, position = tail.head.epoch, tail.head.position
        for record in tail.records or ():
            yield record
            position = record.position
        if not follow:
            return
        time.sleep(0.2)


def print_record(record: Record, *, as_json: bool) -> None:
    """Show one record on a line of its own."""
    if as_json:
        said = {
            "epoch": record.epoch, "position": record.position, "kind": record.kind.value, "region": record.region,
            "targets": list(record.targets), "soft": record.soft, "origin": record.origin, "sent": record.sent,
        }  # fmt: skip
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
        return
    when = time.strftime("%H:%M:%S", time.localtime(record.sent)) if record.sent else "--:--:--"
    kind = f"{record.kind.value}{' (soft)' if record.soft else ''}"
    region = f" [dim]in {escape(record.region)}[/dim]" if record.region else ""
    targets = (
        escape(", ".join(map(str.lstrip, record.targets, repeat("|")))) or "everything"
    )  # the root scope is no news
    console.print(
        f"[bold]{record.position}[/bold] {when} [cyan]{kind}[/cyan] {targets}{region} [dim]{escape(record.origin)}[/dim]"
    )


# -- the doctor -----------------------------------------------------------------------------------------


@app.command()
def doctor(config: Config = None, as_json: Json = False) -> None:
    """Look at everything that the fleet needs, and say what to do where something is wrong."""
    found = []
    with opened(config, shared=False) as cache:
        for finding in examine(cache):
            found.append(finding)
            if as_json:
                continue
            print_finding(finding)
    if as_json:
        fields = ("level", "check", "text", "todo")
        print_json([{name: getattr(finding, name) for name in fields} for finding in found])
    wrong = sum(finding.level == "error" for finding in found)
    if wrong:
        if not as_json:
            errors.print(f"[red]{wrong} of {len(found)} checks failed[/red]")
        sys.exit(FAILED)


def print_finding(finding: Finding) -> None:
    """Show a finding, and below it what to do."""
    colour = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "red"}[finding.level]
    shown = Table.grid(padding=(0, 1))
    shown.add_column(width=7)
    shown.add_column(overflow="fold")
    shown.add_row(f"[{colour}]{finding.level}[/{colour}]", f"[bold]{finding.check}[/bold]: {escape(finding.text)}")
    if finding.todo:
        shown.add_row("", f"[dim]→ {escape(finding.todo)}[/dim]")
    console.print(shown)


def print_json(value: Any) -> None:
    """Print JSON; what JSON, or the encoding of standard output, cannot say, as text and escaped."""
    spelled = _with_text_keys(value)
    text = json.dumps(spelled, indent=2, default=str, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(spelled, indent=2, default=str)
    sys.stdout.write(text + "\n")


def _with_text_keys(value: Any) -> Any:
    """Return a value whose dicts have keys that JSON takes."""
    if isinstance(value, dict):
        return {
            key if isinstance(key, str | int | float | None) else str(key): _with_text_keys(child)
            for key, child in value.items()
        }
    return [_with_text_keys(child) for child in value] if isinstance(value, list | tuple) else value
