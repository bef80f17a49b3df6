"""The folder of a run: who writes it, what it belongs to, how it is continued.

Importing it loads no torch.
"""

import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from filelock import Timeout

from dynalay_gym.errors import CheckpointError, ConfigError
from dynalay_gym.storage.io import locked, plain, read_file, write_json
from dynalay_gym.storage.schema import json_digest, parse_json
from dynalay_gym.utils.flags import flag

SETTINGS = "config.json"
STATE = "resume"
_MOST_BYTES = 2**20  # of the settings
# Flags that a command to resume has in another form, or must not have.
_REPLACED = ("--resume", "--warm-up-from")


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run folder; see `locked`.

    Raises:
        ConfigError: Another process has it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder, wait=False))
        except Timeout:
            raise ConfigError(
                f"another process is writing {folder}; wait until it has ended, or "
                "start a run of its own without --resume"
            ) from None
        yield


def write_settings(folder: Path, settings: Mapping[str, Any], **facts: Any) -> None:
    """Write what a run's numbers depend on, facts of its start, and their hash."""
    content = plain({"options": settings, **facts})
    content["sha256"] = json_digest(content)
    write_json(folder / SETTINGS, content)


def read_settings(folder: Path) -> dict[str, Any]:
    """Return what `write_settings` wrote: ``options`` and the facts.

    Raises:
        CheckpointError: It is no run folder, or its settings were changed.
    """
    path = folder / SETTINGS
    try:
        found = parse_json(read_file(path, _MOST_BYTES), path)
    except (OSError, CheckpointError):
        found = None
    if not (isinstance(found, dict) and isinstance(found.get("options"), dict)):
        raise CheckpointError(
            f"{folder} is no run folder; give the one that the training printed"
        )
    if found.get("sha256") != json_digest(found):
        raise CheckpointError(
            f"{path} is corrupt (its hash is not the one recorded); copy the folder "
            "again, or start anew without --resume"
        )
    return found


def check_same(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raise ConfigError unless the folder's run had the same settings."""
    theirs, ours = read_settings(folder)["options"], plain(settings)
    keys = sorted(ours.keys() | theirs.keys())
    different = [flag(key) for key in keys if ours.get(key) != theirs.get(key)]
    if different:
        raise ConfigError(
            f"{folder} belongs to a run with other options ({', '.join(different)}); "
            "resume with the same ones, or start anew without --resume"
        )


def begins_again(folder: Path, results: tuple[str, ...]) -> bool:
    """Return whether a run that is resumed has to begin again; says so in a line.

    It does so if it was ended before it had saved anything.

    Args:
        folder: The run folder.
        results: Folders in it that a run writes after its first state.

    Raises:
        CheckpointError: The state was taken away.
    """
    if any((folder / STATE).glob("*.json")):  # it is written last
        return False
    left = [name for name in results if (folder / name).exists()]
    if left:
        raise CheckpointError(
            f"{folder} has {left[0]}/ but no {STATE}/ to go on from; copy the whole "
            "folder again, or start anew without --resume"
        )
    print(f"nothing was saved in {folder} yet: it begins again")
    return True


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Let whatever ends a run early say how to go on."""
    try:
        yield
    except (KeyboardInterrupt, OSError) as error:
        error.add_note(f"continue with: {resume_command(folder)}")
        raise


def command_line() -> str:
    """Return this process's command line."""
    return shlex.join(["python", *sys.argv])


def resume_command(folder: Path) -> str:
    """Return this process's command line with ``--resume`` and a run folder."""
    script, *given = sys.argv
    kept: list[str] = []
    values = iter(given)
    for each in values:
        name, has_value, _ = each.replace("_", "-").partition("=")
        if name not in _REPLACED:
            kept.append(each)
        elif not has_value:
            next(values, None)
    return shlex.join(["python", script, *kept, "--resume", str(folder)])
