"""A codec of your own: tables of text, kept as CSV, and refused where they would not survive that."""

from __future__ import annotations

import csv
import io
import tempfile
from typing import Any

from tiercast import CacheConfig, CacheManager, LocalCacheConfig


class CsvCodec:
    """Lists of lists of str. It refuses by raising: `encode` what it would not give back equal."""

    id = 64  # 64 to 65535 are yours; it stands in every stored entry, so it never changes its meaning
    name = "csv"

    def encode(self, value: Any) -> bytes:
        text = io.StringIO()
        csv.writer(text).writerows(value)
        data = text.getvalue().encode()
        if self.decode(data) != value:
            raise ValueError("not a table of text")
        return data

    def decode(self, data: bytes) -> list[list[str]]:
        return list(csv.reader(io.StringIO(data.decode(), newline="")))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        disk = LocalCacheConfig(type="file", directory=directory, serializer=CsvCodec())
        config = CacheConfig(disk=disk, distributed=None)
        with CacheManager(config) as cache:
            cache.set("runways", [["EDDF", "4000"], ["UACC", "3505"]])
        with CacheManager(config) as cache:
            print("from the disk:", cache.get("runways"))
