"""Runs one workload, a turn for every line of its input; see ``compare_checkouts.py``.

    python worker.py WORKLOADS_FILE NAME

A line is the seconds of a turn; the answer is processor seconds per unit.
"""

import runpy
import sys
import time

import torch


def main(path: str, name: str) -> None:
    """Serve turns until the input ends."""
    torch.set_num_threads(1)
    job = runpy.run_path(path)["WORKLOADS"][name]()
    job()
    print("ready", flush=True)
    for line in sys.stdin:
        units, began = 0, time.process_time()
        while units == 0 or time.process_time() - began < float(line):
            units += job()
        print((time.process_time() - began) / units, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
