"""What a script owes to its surroundings: one line per error, codes, patience.

Importing it loads no torch.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from dynalay_gym.errors import DynaLayError
from dynalay_gym.utils.interrupts import Stopped, stop_at_once


def run_script(main: Callable[[], object]) -> int:
    """Call a script's main function; return the exit code of the process.

    What the user has to mend, a signal and a full disk end in one line on standard
    error. Output that nobody reads, or that the terminal's encoding lacks characters
    for, stops nothing.

    Returns:
        0; 1 if files or standard output could not be written; 2 for a `DynaLayError`;
        130, 143 or 129 for SIGINT, SIGTERM or SIGHUP.
    """
    with ExitStack() as stack:
        stdout = stack.enter_context(_patient("stdout"))
        stack.enter_context(_patient("stderr"))
        stack.enter_context(_quiet_threads())
        stack.enter_context(stop_at_once())
        code = _call(main)
        stdout.flush()
        if isinstance(stdout.error, OSError) and not stdout.reader_left:
            _say(f"error: standard output: {stdout.error.strerror}")
            code = code or 1
    return code


def _call(main: Callable[[], object]) -> int:
    """Call a function; say in a line what ended it, and return its exit code."""
    try:
        main()
    except DynaLayError as error:
        _say(f"error: {error}", error)
        return 2
    except KeyboardInterrupt as error:
        _say(str(error) or "stopped by SIGINT", error)
        return error.exit_code if isinstance(error, Stopped) else 130
    except SystemExit as end:  # --help, or a flag that cannot be parsed
        if isinstance(end.code, str):
            _say(end.code)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except OSError as error:
        where = f": {error.filename}" if error.filename is not None else ""
        _say(f"error: {error.strerror or error}{where}", error)
        return 1
    return 0


def _say(line: str, error: BaseException | None = None) -> None:
    """Print a line on standard error, with an error's notes."""
    notes = getattr(error, "__notes__", [])
    print("; ".join([line, *notes]), file=sys.stderr)


class _PatientStream:
    """A text stream that goes on where nothing can be written any more.

    Attributes:
        error: What ended the writing; None while all is well.
        reader_left: Whether it was that nobody reads.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.error: OSError | None = None

    @property
    def reader_left(self) -> bool:
        return isinstance(self.error, BrokenPipeError)

    def write(self, text: str) -> int:
        self._attempt(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, act: Callable[..., object], *args: Any) -> None:
        if self.error is not None:
            return
        try:
            act(*args)
        except OSError as error:
            self.error = error
            _discard(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _discard(stream: Any) -> None:
    """Send what a stream still holds nowhere, or Python complains about it at exit."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except OSError:  # no file behind it
        pass


@contextmanager
def _patient(name: str) -> Iterator[_PatientStream]:
    """Make ``sys.<name>`` patient; a stream that was closed (``>&-``) goes nowhere."""
    before = getattr(sys, name)
    stream = before or open(os.devnull, "w", encoding="utf-8")
    policy = getattr(stream, "errors", None)
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")  # of "±" on an ASCII terminal
    patient = _PatientStream(stream)
    setattr(sys, name, patient)
    try:
        yield patient
    finally:
        patient.flush()
        setattr(sys, name, before)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=policy)
        if before is None:
            stream.close()


@contextmanager
def _quiet_threads() -> Iterator[None]:
    """Keep back the traceback of a thread that could not write a file.

    TensorBoard's raises the error once more in the thread that writes to it.
    """
    before = threading.excepthook

    def show(hook: threading.ExceptHookArgs) -> None:
        if not isinstance(hook.exc_value, OSError):
            before(hook)

    threading.excepthook = show
    try:
        yield
    finally:
        threading.excepthook = before
