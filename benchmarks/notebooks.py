"""All notebooks on the committed reference results, side by side: at most a minute, so that figures are drawn often.

Exit code 1 when they take longer.

    python -m benchmarks.notebooks
"""

import sys
import tempfile
import time
from pathlib import Path

from paper_repro.paths import RESULTS
from paper_repro.plots import notebooks

LIMIT_S = 60.0


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        written = notebooks.execute("all", RESULTS, Path(folder), "cpu")
        seconds = time.perf_counter() - started
    print(f"{len(written)} notebooks in {seconds:.1f} s; limit {LIMIT_S:g} s")
    sys.exit(seconds > LIMIT_S)


if __name__ == "__main__":
    main()
