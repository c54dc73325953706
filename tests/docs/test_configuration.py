"""The tables of docs/configuration.md say what the settings' classes say.

`python tests/docs/test_configuration.py` writes them anew.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import attrs

from tiercast.config import (
    Alert,
    CacheConfig,
    CoherenceConfig,
    Default,
    DistributedCacheConfig,
    LocalCacheConfig,
    MonitoringConfig,
    RegionConfig,
    ScopeLevel,
)
from tiercast.config.regions import RegionDefaults

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
CLASSES = (
    CacheConfig, RegionDefaults, LocalCacheConfig, DistributedCacheConfig, CoherenceConfig, MonitoringConfig, Alert,
    ScopeLevel,
)  # fmt: skip
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fields_of(cls: type) -> list[Any]:
    """The fields that a user may give, without those that a base class documents."""
    inherited = {field.name for base in cls.__mro__[1:] if attrs.has(base) for field in attrs.fields(base)}
    return [field for field in attrs.fields(cls) if field.init and field.name not in inherited]


def descriptions_of(cls: type) -> dict[str, str]:
    """What the class's docstring says under "Attributes", by name."""
    name = "|".join(re.escape(field.name) for field in attrs.fields(cls))
    _, _, section = (inspect.getdoc(cls) or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \w)", "\n" + section):
        text = " ".join(entry.split())
        # Two attributes may share a line: "export_port: … export_host: …".
        pieces = re.split(rf"(?:^|(?<=\. ))((?:{name})(?:, (?:{name}))*): ", text)
        for described, description in zip(pieces[1::2], pieces[2::2], strict=True):
            found |= dict.fromkeys(described.split(", "), description.strip())
    return found


def default_of(field: Any) -> str:
    if field.default is attrs.NOTHING:
        return "required"
    if isinstance(field.default, attrs.Factory):  # type: ignore[arg-type]
        made = field.default.factory
        return "`{}`" if made is dict else f"`{made.__name__}()`"
    if isinstance(field.default, Default):
        return "`DEFAULT`"
    if isinstance(field.default, float) and field.default >= 86_400:
        return f"`{field.default:.0f}` ({field.default / 86_400:g} days)"
    return f"`{field.default!r}`"


def table_of(cls: type) -> str:
    descriptions = descriptions_of(cls)
    lines = ["| setting | default | |", "|---|---|---|"]
    for field in fields_of(cls):
        text = descriptions.get(field.name, "").replace("|", "\\|")
        text = re.sub(r'(?<![`"\w])(\w+_\w+)(?![`"\w(])', r"`\1`", text)
        lines.append(f"| `{field.name}` | {default_of(field)} | {text} |")
    return "\n".join(lines) + "\n"


def rendered(page: str) -> str:
    """The page with all its tables as they should be."""
    classes = {cls.__name__: cls for cls in CLASSES}
    return BLOCK.sub(lambda block: block[1] + table_of(classes[block[2]]) + block[3], page)


def test_the_tables_are_what_the_classes_say() -> None:
    """No table is out of step; `python tests/docs/test_configuration.py` mends that."""
    page = PAGE.read_text(encoding="utf-8")
    assert rendered(page) == page, "run `python tests/docs/test_configuration.py`"


def test_every_class_has_its_table() -> None:
    """No class of settings is left out."""
    assert {cls.__name__ for cls in CLASSES} == {block[1] for block in BLOCK.findall(PAGE.read_text(encoding="utf-8"))}


def test_every_setting_is_described() -> None:
    """Whoever adds a setting says what it is."""
    missing = [
        f"{cls.__name__}.{field.name}"
        for cls in CLASSES
        for field in fields_of(cls)
        if not descriptions_of(cls).get(field.name)
    ]
    assert [] == missing


def test_a_region_may_set_what_the_page_says() -> None:
    """The options of a region are those of `RegionDefaults`, the tiers and the TTL."""
    told = {"local", "disk", "distributed", "ttl", "ttl_jitter", "sliding"} | {
        f.name for f in attrs.fields(RegionDefaults)
    }
    assert told == {field.name for field in attrs.fields(RegionConfig)} - {"name"}


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.exit(0)
