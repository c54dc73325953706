"""Measure tiercast beside its peers, every figure a quotient of two things taken in turn.

    make bench                    all of it: writes docs/benchmarks.md, docs/policies.md's tables and docs/img/*.svg
    make bench-quick              under a minute; writes nothing; fails only where a target is missed by a factor of two
    python benchmarks/run.py [--quick] [--only PREFIX …] [--json] [--traces DIRECTORY] [--no-redis] [--page PAGE]
        [--output DIRECTORY]

A Redis server of its own is started, where one can be found. Traces are not part of the repository: without
--traces, ../shared/traces is looked at, and rows that need them say so where there are none.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anatomy
import below_rows
import coherence_rows
import memory_rows
import policies_page
import policy_rows
import report
import size_rows
import stampede_rows
import start_rows
from measure import Row, Settings

ROOT = Path(__file__).resolve().parent.parent
Benchmark = Callable[[Settings], Iterator[Row]]
BENCHMARKS: dict[str, Benchmark] = {
    "hits": memory_rows.hits,
    "decorated": memory_rows.decorated,
    "awaited": memory_rows.awaited,
    "disk": below_rows.disk_rows,
    "remote": below_rows.remote_rows,
    "concurrent": below_rows.concurrent_rows,
    "set": below_rows.set_rows,
    "entry": size_rows.per_entry,
    "threads": size_rows.threads,
    "growth": size_rows.growth,
    "imports": start_rows.imports,
    "ratios": policy_rows.ratios,
    "sampling": memory_rows.sampling,
    "several": memory_rows.several,
    "old": size_rows.old_claims,
    "propagation": coherence_rows.propagation,
    "sizes": coherence_rows.by_size,
    "disk-log": coherence_rows.disk_log,
    "cpu": coherence_rows.cpu,
    "stampede": stampede_rows.rows,
}
NEED_REDIS = {"remote", "concurrent", "set", "propagation", "sizes", "cpu"}


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, nothing written, under a minute")
    parser.add_argument("--only", nargs="+", choices=sorted(BENCHMARKS), help="only these benchmarks; writes nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
    parser.add_argument("--traces", type=Path, default=ROOT.parent / "shared" / "traces", help="a directory of traces")
    parser.add_argument("--no-redis", action="store_true", help="leave out what needs a server")
    parser.add_argument(
        "--page", choices=("all", "benchmarks", "policies"), default="all", help="what to measure and write"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="where the pages are written")
    return parser.parse_args(given)


@contextmanager
def redis_server() -> Iterator[Any]:
    """A server of our own, as the tests start it; None where none can be found."""
    sys.path.insert(0, str(ROOT / "tests"))
    from redis_process import RedisServer, find_server

    if find_server() is None:
        yield None
        return
    with RedisServer() as server:
        yield server


def main(given: list[str] | None = None) -> int:
    options = arguments(given)
    rows: list[Row] = []
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tiercast-bench-")))
        server = None if options.no_redis else stack.enter_context(redis_server())
        settings = Settings(options.quick, directory, options.traces, server)
        began = time.monotonic()
        for name, benchmark in BENCHMARKS.items() if options.page != "policies" else ():
            if (options.only and name not in options.only) or (server is None and name in NEED_REDIS):
                continue
            for row in benchmark(settings):
                rows.append(row)
                if not options.json:
                    print(report.line(row), flush=True)
        parts, below = anatomy.hit_parts(settings), anatomy.below_parts(settings)
        where = report.machine(settings)
        if options.json:
            found = {"rows": [row.as_dict() for row in rows], "parts": parts, "below": below, "machine": where}
            print(json.dumps(found, indent=2))
        if not options.quick and not options.only:
            (options.output / "img").mkdir(parents=True, exist_ok=True)
            if options.page != "policies":
                page = report.markdown(rows, parts, below, where, "make bench")
                (options.output / "benchmarks.md").write_text(page, encoding="utf-8")
                report.draw(settings, options.output / "img")
            if options.page != "benchmarks":
                policies_page.write(options.traces, options.output)
    gross = [row for row in rows if row.grossly_missed]
    if not options.json:
        print(f"{len(rows)} rows in {time.monotonic() - began:.0f} s")
        for row in gross:
            print(f"grossly missed: {row.number} {row.what}: {report.figure(row)}, target {report.target(row)}")
    return 1 if options.quick and gross else 0


if __name__ == "__main__":
    sys.exit(main())
