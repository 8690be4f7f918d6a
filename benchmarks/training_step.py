"""The cost of a training step of the n-gram student does not depend on how many rows its table has.

Whole steps on tables of 10,000 to 10,000,000 rows take turns; each batch touches as many distinct rows of each. Printed
are seconds per step, how much more the largest table takes than the smallest (median over rounds, 95 % interval), and
how much longer torch's own EmbeddingBag and SparseAdam take. Exit code 1 when the whole interval of the growth from a
million rows, which no cache holds, to the most lies above a quarter. Takes 5 GB of memory.

    python -m benchmarks.training_step [--rounds 15] [--threads N] [--device cpu] [--rows 10000 1000000 10000000]
"""

import argparse
import sys

import torch

from paper_repro.timing import ratio
from paper_repro.timing.training_step import VOCABS, label, time_training_step

LIMIT = 1.25
CACHELESS = 1_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, nargs="+", default=list(VOCABS))
    arguments = parser.parse_args()
    sizes = sorted(set(arguments.rows))
    found = time_training_step(sizes, rounds=arguments.rounds, threads=arguments.threads, device=arguments.device)
    values = {metric["name"]: metric for metric in found["metrics"]}
    for name, metric in values.items():
        if not name.endswith(("/low", "/high")):
            low, high = values[f"{name}/low"]["value"], values[f"{name}/high"]["value"]
            print(f"{name:28} {metric['value']:9.5f}  95 % [{low:.5f}, {high:.5f}] {metric['unit']}")
    disturbed = sum(bool(flags) for flags in found["protocol"]["flags"][f"{label(sizes[0])}/step"])
    print(f"{arguments.device}, {arguments.threads} threads, {arguments.rounds} rounds ({disturbed} flagged)")
    if CACHELESS not in sizes or sizes[-1] == CACHELESS:
        return 0
    most, least = label(sizes[-1]), label(CACHELESS)
    growth = ratio(found["samples"][f"{most}/step"], found["samples"][f"{least}/step"])
    print(f"{most} over {least}: {growth.estimate:.3f} [{growth.low:.3f}, {growth.high:.3f}], limit {LIMIT}")
    return int(growth.low > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
