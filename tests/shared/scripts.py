"""The programs of `benchmarks/` as modules of a package."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"

if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))
