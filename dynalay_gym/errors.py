"""Errors that a user can act on; the message is one line with the remedy in it.

The scripts print such an error without a traceback and exit with code 2. Whoever
uses the library catches `DynaLayError`, or the closest class below.
"""

import reprlib
from typing import Any


def brief(value: Any) -> str:
    """Return what a message shows of a value: its repr, short and on one line."""
    return " ".join(reprlib.repr(value).split())


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type if there is none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class DynaLayError(Exception):
    """Base of every error that the user, not the code, has to mend."""


class ConfigError(DynaLayError, ValueError):
    """An argument or option has a value that nothing can be done with."""


class UnknownArgumentError(ConfigError, TypeError):
    """A keyword that nobody knows, or that another rules out: a TypeError, too."""


class DataError(DynaLayError):
    """Files of a data set are missing, corrupt or cannot be downloaded."""


class CheckpointError(DynaLayError):
    """A checkpoint is missing, truncated, corrupt or of another architecture."""


class DivergedError(DynaLayError):
    """A training stopped because a number in it is no longer finite."""


class InvalidActionError(DynaLayError, ValueError):
    """Actions are out of range, of the wrong shape, or meant for a finished row."""


class ResetNeededError(DynaLayError):
    """The environment was stepped before `reset` or after its episode had ended."""
