"""Signals wait for the end of a step, the second one does not, nothing stays behind."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from dynalay_gym.utils.interrupts import Stopped, finish_step, stop_at_once

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.fixture(autouse=True)
def nothing_stays_behind() -> Iterator[None]:
    before = handlers()
    yield
    assert handlers() == before


@pytest.mark.parametrize(("number", "code"), SIGNALS.items())
def test_a_signal_waits_until_it_is_obeyed(number: int, code: int) -> None:
    done = []
    with pytest.raises(Stopped) as caught, finish_step() as stop:
        for step in range(5):
            if step == 2:
                send(number)
            done.append(step)
            stop.obey()
    assert done == [0, 1, 2]
    assert caught.value.exit_code == code
    assert str(caught.value) == f"stopped by {signal.Signals(number).name}"


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_acts_at_once(number: int) -> None:
    done = []
    with pytest.raises(Stopped), stop_at_once(), finish_step():
        send(number)
        done.append("after the first")
        send(number)
        done.append("after the second")
    assert done == ["after the first"]


def test_the_second_ctrl_c_of_a_library_user_is_pythons_own() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, finish_step():
        send(signal.SIGINT)
        send(signal.SIGINT)
    assert not isinstance(caught.value, Stopped)


def test_a_signal_that_nobody_asks_for_is_not_lost() -> None:
    with pytest.raises(Stopped), finish_step():
        send(signal.SIGTERM)


def test_what_is_ignored_stays_ignored() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_at_once(), finish_step() as stop:
            send(signal.SIGHUP)
            assert not stop
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_error_is_told_instead() -> None:
    with pytest.raises(ZeroDivisionError), finish_step():
        send(signal.SIGTERM)
        raise ZeroDivisionError


def test_other_threads_have_no_handlers() -> None:
    found = []

    def work() -> None:
        before = handlers()
        with stop_at_once(), finish_step() as stop:
            found.append((handlers() == before, bool(stop)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(True, False)]
