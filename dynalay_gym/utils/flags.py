"""Command lines of the scripts: names of flags, and short errors.

Importing it loads no torch.
"""

import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from itertools import dropwhile, takewhile

from dynalay_gym.errors import ConfigError


def flag(name: str, group: str = "") -> str:
    """Return the flag of an option: ``--<group>.<name>``, with dashes."""
    return f"--{group and group + '.'}{name.replace('_', '-')}"


@contextmanager
def short_errors() -> Iterator[None]:
    """Turn what a parser of the command line prints before it exits into one line.

    Raises:
        ConfigError: The parser refused the command line, or an option is empty: an
            empty path would be the current folder.
    """
    if any(not word or word.endswith("=") for word in sys.argv[1:]):
        raise ConfigError("an option has an empty value; give one, or leave it out")
    printed = io.StringIO()
    try:
        with redirect_stderr(printed):
            yield
    except SystemExit as end:
        if not end.code:
            raise
        raise ConfigError(_one_line(printed.getvalue())) from None


def _one_line(box: str) -> str:
    """Return what tyro's box says is wrong: the text between its first two rules."""
    lines = [
        re.sub(r"\x1b\[[\d;]*m", "", line).strip("│ ") for line in box.splitlines()
    ]
    title, *rest = filter(None, lines)  # in a terminal the first rule holds the title
    inside = dropwhile(_is_rule, rest)
    text = " ".join(takewhile(lambda line: not _is_rule(line), inside)) or title
    text = text.partition(" Got errors:")[0]  # one for each type of a union
    text = re.sub(r"^Error parsing [\w.]+: (?=--)", "", text).rstrip(".")  # ours inside
    meant = re.search(r"Perhaps you meant: (--[\w.-]+)", " ".join(rest))
    return text + (f"; perhaps you meant {meant[1]}" if meant else "; see --help")


def _is_rule(line: str) -> bool:
    return set(line) <= set("─-╰╯")
