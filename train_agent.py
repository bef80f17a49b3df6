"""Train an agent on a DynaLay environment and compare it with every reference policy.

The table at the end covers the whole test split. Everything is kept in a run folder:
the agent, results.json, and curves for TensorBoard.
"""

import sys

import tyro

from agents.options import Options
from dynalay_gym.errors import DynaLayError
from dynalay_gym.utils.flags import short_errors


def main() -> int:
    """Run the script; return the exit code."""
    try:
        with short_errors():
            options = tyro.cli(Options)
        options.check()
        from agents.run import run  # loads torch, for which --help does not wait

        run(options)
    except DynaLayError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
