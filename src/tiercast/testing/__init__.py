"""What users' own tests need: contract suites, a fake clock and fixtures. Needs pytest (``tiercast[testing]``)."""

from __future__ import annotations

try:
    import pytest
except ImportError as exc:  # pragma: no cover  the tests install every extra
    raise ImportError("tiercast.testing needs an extra: pip install 'tiercast[testing]'") from exc

# Before they are imported: a failing claim then shows both sides, as in a test module.
pytest.register_assert_rewrite(f"{__name__}.tier_contract", f"{__name__}.log_contract")

from .clock import FakeClock  # noqa: E402
from .log_contract import LogContract  # noqa: E402
from .tier_contract import TierContract  # noqa: E402

__all__ = ["FakeClock", "LogContract", "TierContract"]
