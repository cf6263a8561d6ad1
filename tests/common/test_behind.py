import threading
import time

import pytest

from skipwise.common.behind import behind


def test_calls_are_done_in_order_in_another_thread():
    done, waits = [], threading.Event()
    with behind() as run:
        run(waits.wait, 5)
        done.append("here")
        waits.set()
        for number in range(5):
            run(lambda number: (time.sleep(0.001), done.append((number, threading.current_thread()))), number)
    assert done[0] == "here" and [number for number, _ in done[1:]] == [*range(5)]
    assert {thread for _, thread in done[1:]}.isdisjoint({threading.main_thread()})


def test_what_a_call_raises_is_raised_here():
    with pytest.raises(ZeroDivisionError), behind() as run:
        run(lambda: 1 / 0)
    done = []
    with pytest.raises(ZeroDivisionError), behind() as run:
        run(lambda: 1 / 0)
        run(done.append, 1)
    assert done == []
