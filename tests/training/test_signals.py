"""Signals are requests while a run trains; a process that ends by one removes what is temporary."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from handloom.training.signals import end_on_signals, stop_on_signals


def test_a_second_ctrl_c_stops_at_once():
    with stop_on_signals() as wish:
        os.kill(os.getpid(), signal.SIGTERM)
        assert wish.stop
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_terminal_that_closes_sends_several_signals_which_are_one_wish(first):
    told = []
    with stop_on_signals(lambda: told.append(threading.current_thread())) as wish:
        for number in (first, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
        assert wish.stop
    assert len(told) == 1
    assert told[0] is not threading.main_thread()  # nothing is printed within the handler


def test_under_nohup_a_run_goes_on():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with end_on_signals(), stop_on_signals() as wish:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not wish.stop
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def handlers():
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


@pytest.mark.parametrize("guard", [stop_on_signals, end_on_signals])
def test_handlers_come_back_also_after_an_error(guard):
    before, within = handlers(), []

    def fail():
        with guard():
            within.append(handlers())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert within != [before]
    assert handlers() == before


def test_a_deadly_signal_ends_with_its_number_and_lets_cleaning_be_done():
    cleaned = []

    def work():
        with end_on_signals():
            try:
                os.kill(os.getpid(), signal.SIGHUP)
            finally:
                os.kill(os.getpid(), signal.SIGHUP)  # the second of a terminal that closes
                cleaned.append(True)

    with pytest.raises(SystemExit) as ended:
        work()
    assert ended.value.code == 129
    assert cleaned


def test_in_another_thread_nothing_is_caught():
    before, after = handlers(), []

    def work():
        with end_on_signals(), stop_on_signals() as wish:
            after.append((handlers(), wish.stop))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert after == [(before, False)]
