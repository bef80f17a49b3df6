"""Options of the scripts: the names of their flags, and checks of their ranges.

Importing it loads no torch.
"""

from collections.abc import Callable
from typing import Any

from dynalay_gym.errors import ConfigError


def flag(name: str, group: str = "") -> str:
    """Return the flag of an option: ``--<group>.<name>``, with dashes."""
    return f"--{group and group + '.'}{name.replace('_', '-')}"


def check_range(
    config: Any, names: str, is_sound: Callable[[Any], bool], rule: str, group: str = ""
) -> None:
    """Check some options of a config.

    Args:
        config: Has the options as attributes.
        names: Their names, separated by spaces.
        is_sound: Whether a value is allowed; never so for NaN.
        rule: What is allowed, as in "must be above 0".
        group: First part of their flags.

    Raises:
        ConfigError: A value is not allowed; the message names its flag.
    """
    for name in names.split():
        if not is_sound(value := getattr(config, name)):
            raise ConfigError(f"{flag(name, group)} must {rule}, got {value}")
