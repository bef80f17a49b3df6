"""Where the package keeps what it can make again."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """``$DYNALAY_CACHE_DIR``, or ``dynalay_gym`` in ``$XDG_CACHE_HOME`` or ~/.cache."""
    own = os.environ.get("DYNALAY_CACHE_DIR")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(shared).expanduser() / "dynalay_gym"
