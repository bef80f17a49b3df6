"""Show trained runs as one HTML page.

    python -m dynalay_gym.report runs/maze/ppo/0 runs/maze/exact/0 --out report.html

The page needs no network and no other file.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from dynalay_gym.errors import ConfigError
from dynalay_gym.utils.flags import short_errors
from dynalay_gym.utils.scripts import run_script


@dataclass(frozen=True, kw_only=True)
class Args:
    """Show trained runs as one HTML page that needs nothing else."""

    runs: Annotated[tuple[Path, ...], Positional]
    """Run folders that train_agent.py wrote."""
    out: Path = Path("report.html")
    """File to write."""


def main() -> int:
    """Run the script; return the exit code."""
    return run_script(report)


def report() -> None:
    """Read the command line and do what it says."""
    with short_errors():
        args = tyro.cli(Args, prog="python -m dynalay_gym.report")
    if not args.runs:
        raise ConfigError("give a run folder, such as runs/maze/ppo/0; see --help")
    if not args.out.parent.is_dir():
        raise ConfigError(f"there is no folder {args.out.parent} for --out; make it")
    run(args)


def run(args: Args) -> None:
    """Read the runs, then write the page."""
    from dynalay_gym.report.page import render  # loads what --help does not wait for
    from dynalay_gym.report.runs import read_run
    from dynalay_gym.storage.io import write_bytes

    page = render([read_run(folder) for folder in args.runs])
    write_bytes(args.out, page.encode())
    print(f"{args.out}: {len(args.runs)} run{'s' if len(args.runs) > 1 else ''}")


if __name__ == "__main__":
    sys.exit(main())
