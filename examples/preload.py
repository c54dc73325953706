"""Fork after warm-up, as gunicorn does with preload_app: the workers begin with a warm memory, and stay true.

python examples/preload.py

A forked child keeps what memory holds, but trusts it only after it has asked the log itself; it opens its own files
and connections, and starts its own threads.
"""

from __future__ import annotations

import os
import tempfile
import warnings

from tiercast import CacheConfig, CacheManager, LocalCacheConfig

COUNTRIES = {"DE": "Berlin", "FR": "Paris", "KZ": "Astana"}


def say(text: str) -> None:
    """Print a line in one piece: several processes write here."""
    os.write(1, f"{text}\n".encode())


def capital(cache: CacheManager, country: str) -> str:
    def load() -> str:
        say(f"  process {os.getpid() - FIRST}: loads {country}")
        return COUNTRIES[country]

    found: str = cache.get_or_set(f"capital:{country}", load)
    return found


def worker(cache: CacheManager, number: int, warm: int, changed: int) -> None:
    """What a worker process does: serve, and serve again after a sibling's invalidation."""
    say(f"worker {number} serves {capital(cache, 'DE')}, {capital(cache, 'KZ')} from its parent's warm-up")
    os.write(warm, b".")
    os.read(changed, 1)
    known = cache.get("capital:KZ")
    say(f"worker {number} knows of Kazakhstan after the invalidation: {known}")


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        disk = LocalCacheConfig(type="file", directory=directory)
        with CacheManager(CacheConfig(name="preload", disk=disk, distributed=None)) as cache:
            for country in COUNTRIES:
                capital(cache, country)
            is_warm, warm = os.pipe()
            changed, change = os.pipe()
            children = []
            # Python 3.12 warns of every fork beside a thread; what tiercast's threads hold is made anew in the child.
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            for number in range(2):
                child = os.fork()
                if child == 0:
                    worker(cache, number, warm, changed)
                    os._exit(0)  # as gunicorn's workers do, without the parent's clean-up
                children.append(child)
            for _ in children:
                os.read(is_warm, 1)
            say("the parent invalidates")
            cache.invalidate_keys(["capital:KZ"])
            os.write(change, b"." * len(children))
            for child in children:
                _, status = os.waitpid(child, 0)
                if status:
                    raise SystemExit(f"a worker ended with {status}")


FIRST = os.getpid()

if __name__ == "__main__":
    main()
