"""Loader processes: results in order, memory that is used again, processes that fail."""
import faulthandler
import gc
import os
import signal
import threading
import time

import cv2
import numpy as np
import paddle
import pytest

from common.core.errors import RunError
from common.data.workers import AHEAD, CRASHES, Workers

pytestmark = pytest.mark.smoke


def squares(task):
    """Arrays whose sizes change from task to task."""
    time.sleep(0.01 * (task % 3))
    return np.full((task % 7 + 1, 3), task ** 2), np.arange(task % 5), np.array(f'task {task}')


def test_results_come_in_the_order_of_the_tasks():
    workers = Workers(squares, 3)
    for tasks in (range(40), range(2), range(0), range(5, 25)):  # the same processes again
        seen = 0
        for task, (full, count, text) in zip(tasks, workers.run(tasks), strict=True):
            assert full.shape == (task % 7 + 1, 3) and (full == task ** 2).all()
            assert np.array_equal(count, np.arange(task % 5)) and text == f'task {task}'
            seen += 1
        assert seen == len(tasks)
    workers.close()


def test_result_holds_until_the_next_is_taken():
    """Also while the workers make all that they may make ahead."""
    workers = Workers(lambda task: (np.full(100_000, task),), 2)
    for task, result in enumerate(workers.run(range(20))):
        time.sleep(0.02)
        assert (result[0] == task).all()
    workers.close()


def test_workers_make_batches_ahead_and_not_more():
    taken = []

    def tasks():
        for task in range(30):
            taken.append(task)
            yield task

    workers = Workers(squares, 2)
    for task, _ in enumerate(workers.run(tasks())):
        assert len(taken) == min(30, task + 1 + 2 * AHEAD)
    workers.close()


def test_signals_to_a_whole_group_are_left_to_the_run_S1():
    """A worker that died of one would take the run's last step and its checkpoint along."""
    workers = Workers(squares, 1)
    results = workers.run(range(20))
    next(results)
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(workers.workers[0].process.pid, number)
    assert len(list(results)) == 19
    workers.close()


def fails_at_five(task):
    if task == 5:
        raise KeyError('five')
    return (np.array(task),)


def test_error_in_a_worker_is_the_loops(capfd):
    workers = Workers(fails_at_five, 2)
    seen = []
    with pytest.raises(RunError, match=r"loader: an error in a worker: KeyError: 'five'"):
        seen.extend(int(result) for result, in workers.run(range(9)))
    assert seen == [0, 1, 2, 3, 4] and workers.workers == []
    assert 'in fails_at_five' in capfd.readouterr().err


def caught_signals(task):
    """The numbers of the signals for which this process has a handler, Python's or another."""
    with open('/proc/self/status') as stream:
        mask, = (int(line.split()[1], 16) for line in stream if line.startswith('SigCgt'))
    return (np.array([number for number in range(1, 32) if mask >> (number - 1) & 1]),)


def test_crash_of_a_worker_ends_it_at_once_M1():
    """No handler is in the way: Paddle's for the end by SIGSEGV could wait for ever."""
    assert signal.SIGSEGV in caught_signals(0)[0]  # here there is one
    (seen,), = list(Workers(caught_signals, 1).run(range(1)))
    assert not set(seen) & set(CRASHES)


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGSEGV, None])
def test_dead_worker_is_named_by_its_end_M1(number):
    """None: it leaves by itself, with exit code 7."""
    def end_at_four(task):
        if task == 4:
            if number is None:
                os._exit(7)
            faulthandler.disable()  # pytest's would print the whole stack
            os.kill(os.getpid(), number)
        return (np.array(task),)

    workers = Workers(end_at_four, 2, timeout=100.0)
    end = number.name if number else 'exit code 7'
    # its end is noticed, not that nothing came for 100 s
    with pytest.raises(RunError, match=f'a worker has died .{end}'):
        list(workers.run(range(9)))


def test_stuck_worker_is_waited_for_and_no_longer_M1():
    """The first three tasks together take longer than the timeout, each of them does not."""
    workers = Workers(lambda task: time.sleep(600 if task == 3 else 1.2) or (), 1, timeout=3.0)
    pids = [worker.process.pid for worker in workers.workers]
    seen = 0
    with pytest.raises(RunError, match='no batch for 3.0 s'):
        for _ in workers.run(range(9)):
            seen += 1
    assert seen == 3
    assert not any(os.path.exists(f'/proc/{pid}') for pid in pids)


@pytest.mark.parametrize('way', ['left off', 'dropped', 'closed'])
def test_processes_memory_and_descriptors_go_with_the_workers_M7(way):
    gc.collect()
    before = sorted(os.listdir('/proc/self/fd'))
    workers = Workers(squares, 2)
    pids = [worker.process.pid for worker in workers.workers]
    results = workers.run(range(9))
    result = next(results)
    if way == 'left off':
        results.close()
    elif way == 'closed':
        for result in results:  # noqa: B007 - the last one is task 8's
            pass
        workers.close()
    del workers, results
    gc.collect()
    assert not any(os.path.exists(f'/proc/{pid}') for pid in pids)
    assert (result[0] == (64 if way == 'closed' else 0)).all()  # it stays
    del result
    gc.collect()
    assert sorted(os.listdir('/proc/self/fd')) == before


def test_workers_start_while_other_threads_use_paddle_M1():
    """Paddle's own loader waits for ever in a start of a hundred, and nearly always here."""
    done = threading.Event()

    def busy():
        while not done.is_set():
            thread = threading.Thread(target=lambda: paddle.to_tensor(np.ones(1000)) + 1)
            thread.start()
            thread.join()

    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            workers = Workers(lambda task: (np.full(1000, task),), 2, timeout=20.0)
            assert [int(result[0]) for result, in workers.run(range(4))] == [0, 1, 2, 3]
            workers.close()
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_workers_use_one_thread_of_opencv_and_leave_the_process_its_own():
    image, before = np.zeros((2000, 2000, 3), np.uint8), cv2.getNumThreads()

    def count(task):
        cv2.GaussianBlur(image, (9, 9), 0)
        return (np.array(cv2.getNumThreads()),)

    try:
        cv2.setNumThreads(3)
        cv2.GaussianBlur(image, (9, 9), 0)  # now there are threads, which no fork copies
        workers = Workers(count, 2, timeout=20.0)
        assert [threads.item() for threads, in workers.run(range(4))] == [1] * 4
        workers.close()
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)
