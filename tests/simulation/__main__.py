"""Replay a seed, or look for one that fails: python -m simulation SEED [COUNT [STEPS SHOWN]]."""

from __future__ import annotations

import sys
import time
from collections import Counter

from simulation.rest import Failed, simulate

MOST_FAILURES = 20
first, many = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
last = int(sys.argv[3]) if len(sys.argv) > 3 else 250
total: Counter[str] = Counter()
begun = time.process_time()
failed = 0
for seed in range(first, first + many):
    try:
        total += simulate(seed, remember=last)
    except Failed as exc:
        failed += 1
        print(exc if many == 1 else exc.args[0], flush=True)
        if failed == MOST_FAILURES:
            break
seconds = time.process_time() - begun
for name, count in sorted(total.items()):
    print(f"{count:10,}  {name}")
print(f"{many} seeds, {failed} failed, {total['steps']:,} steps, {total['steps'] / seconds:,.0f} steps/s")
