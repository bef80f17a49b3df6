"""Train an agent on a DynaLay environment and compare it with every reference policy.

The table at the end covers the whole test split. Everything is kept in a run folder:
the agent, results.json, and curves for TensorBoard.
"""

import sys

import tyro

from agents.options import Options
from dynalay_gym.utils.flags import short_errors
from dynalay_gym.utils.scripts import run_script


def main() -> int:
    """Run the script; return the exit code."""
    return run_script(train)


def train() -> None:
    """Read the command line and do what it says."""
    with short_errors():
        options = tyro.cli(Options)
    options.check()
    from agents.run import run  # loads torch, for which --help does not wait

    run(options)


if __name__ == "__main__":
    sys.exit(main())
