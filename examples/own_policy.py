"""An eviction policy of your own: any `cachetools.Cache`. This one gives up the longest text first."""

from __future__ import annotations

from typing import Any

import cachetools

from tiercast import CacheConfig, CacheManager, LocalCacheConfig


class LongestFirst(cachetools.Cache[str, Any]):
    """Holds the plain values; when memory is full, `popitem` says which key goes."""

    def popitem(self) -> tuple[str, Any]:
        key = max(self, key=lambda key: len(cachetools.Cache.__getitem__(self, key)))
        return key, self.pop(key)


if __name__ == "__main__":
    memory = LocalCacheConfig(max_size=2, policy=LongestFirst)
    with CacheManager(CacheConfig(local=memory, distributed=None)) as cache:
        cache.set("a", "short")
        cache.set("b", "rather a long text")
        cache.set("c", "middling")
        print("still cached:", sorted(cache.multi_get(["a", "b", "c"])))
