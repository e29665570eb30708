import threading

import pytest

from counterstain.infer.later import Later


def test_work_is_done_in_order_by_another_thread_and_is_done_at_the_end() -> None:
    done: list[tuple[int, int]] = []
    with Later(1) as later:
        for number in range(50):
            later.do(lambda number=number: done.append((number, threading.get_ident())))
    assert [number for number, _ in done] == list(range(50))
    assert {thread for _, thread in done}.isdisjoint({threading.get_ident()})


def test_no_more_than_it_may_is_given_and_not_done() -> None:
    done: list[int] = []
    with Later(2) as later:
        for number in range(200):
            later.do(lambda number=number: done.append(number))
            assert number + 1 - len(done) <= 3, "one under way and two waiting"


def test_an_error_of_the_work_is_raised_and_nothing_is_done_after_it() -> None:
    done: list[int] = []

    def fail() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), Later(5) as later:
        for work in (lambda: done.append(1), fail, lambda: done.append(2)):
            later.do(work)
    assert done == [1]


def test_what_was_given_before_the_block_failed_is_done() -> None:
    done: list[int] = []
    go = threading.Event()
    with pytest.raises(ValueError, match="the block"), Later(5) as later:
        later.do(lambda: done.append(int(go.wait(5))))
        later.do(lambda: done.append(2))
        go.set()
        raise ValueError("the block")
    assert done == [1, 2]


def test_what_failed_beside_a_block_that_failed_is_told_with_it() -> None:
    def fail() -> None:
        raise OSError("disk full")

    with pytest.raises(ValueError, match="the block") as failed, Later(5) as later:
        later.do(fail)
        raise ValueError("the block")
    assert "disk full" in failed.value.__notes__[0]
