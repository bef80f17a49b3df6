"""Signals that ask a process to end: at once, or after the step that it is in.

Nothing of it outlives the ``with`` block, and outside of the main thread, where Python
allows no handlers, it does nothing.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C; what a scheduler or a container sends; the end of a remote session.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class Stopped(KeyboardInterrupt):
    """A signal asked the process to end.

    Attributes:
        exit_code: What a shell shows for it: 130, 143 or 129.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class StopRequest:
    """Whether a signal has come; true from then on."""

    number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None

    def obey(self) -> None:
        """Call it where all is saved: raises `Stopped` if a signal has come."""
        if self.number is not None:
            raise Stopped(self.number)


@contextmanager
def stop_at_once() -> Iterator[None]:
    """Let a signal raise `Stopped` wherever the process is."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    with _handling(handle):
        yield


@contextmanager
def finish_step() -> Iterator[StopRequest]:
    """Keep a signal until the block asks for it, at the latest until its end.

    A second signal acts as it would outside of the block: at once.

    Yields:
        The request, to be obeyed where a step is complete.

    Raises:
        Stopped: A signal came too late for the block to ask.
    """
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        request.number = number
        restore()

    with _handling(handle) as restore:
        yield request
    request.obey()


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[Callable]:
    """Install a handler; yields what puts the previous ones back early."""
    previous: dict[int, object] = {}

    def restore() -> None:
        for number, old in previous.items():
            signal.signal(number, old)  # type: ignore[arg-type]

    if threading.current_thread() is threading.main_thread():
        known = (getattr(signal, name) for name in _NAMES if hasattr(signal, name))
        found = {number: signal.getsignal(number) for number in known}
        # What is ignored stays so (nohup), and what C has installed.
        kept = (signal.SIG_IGN, None)
        previous = {number: old for number, old in found.items() if old not in kept}
    try:
        for number in previous:
            signal.signal(number, handler)
        yield restore
    finally:
        restore()
