"""The end of a process, and forks, with operators queued.

**The end of a process, and forks.** A callback of a custom operator needs Python's lock. MXNet's
shutdown, and its preparation of a fork, hold that lock while they wait for the threads that run
callbacks.

A forked child has none of the threads of GNU's OpenMP, which waits for them all the same when the
forking thread has computed before. MXNet's naive engine computes in that thread.
"""
import atexit
import ctypes
import logging
import os
import sys
import time

import mxnet as mx
from mxnet.base import _LIB
from mxnet.executor import Executor

__all__ = ['settle']

logger = logging.getLogger('center_loss_op')


def settle():
    """Wait for every queued operator, and for the threads that run callbacks to end.

    MXNet starts new ones when it needs them. What failed is logged, not raised.
    """
    try:
        mx.nd.waitall()
    except mx.MXNetError as error:
        logger.error('a queued operator failed: %s', error)
    # A thread whose callback is done may have yet to free it, which takes the lock again.
    if not _restart_threads():
        time.sleep(0.01)  # time enough, if the machine is not very busy


def _restart_threads():
    """End the threads that run callbacks and start new ones; False where that cannot be."""
    if os.environ.get('MXNET_ENGINE_TYPE') == 'ThreadedEngine':
        return False  # it crashed 7 of 25 processes that had done it and then ended
    # These are what MXNet calls in the midst of a fork, before it and after. Called through
    # ctypes, they give up the lock while they wait.
    try:
        initializer = _LIB['_ZN5mxnet18LibraryInitializer3GetEv']
        stop = _LIB['_ZN5mxnet18LibraryInitializer14atfork_prepareEv']
        start = _LIB['_ZN5mxnet18LibraryInitializer13atfork_parentEv']
    except AttributeError:  # another build of MXNet
        return False
    initializer.restype = ctypes.c_void_p
    this = ctypes.c_void_p(initializer())
    stop(this)
    start(this)
    return True


_HARD = 2  # omp_pause_hard: give up all threads, whatever they have kept


def _before_fork():
    settle()
    try:
        pause = _LIB.omp_pause_resource_all  # of OpenMP 5.0
    except AttributeError:
        return
    pause(_HARD)  # parent and child start new threads when they need them


def _before_subprocess(event, args):  # pylint: disable=unused-argument
    if event == 'subprocess.Popen':
        settle()


def _leave_executors():
    """What the program still holds is the system's to free.

    Python frees it after this, and a thread of the engine then frees its operators, which takes the
    lock; Python ends a thread that asks for it so late, and the process crashes.
    """
    Executor.__del__ = lambda self: None


atexit.register(_leave_executors)
atexit.register(settle)  # after MXNet's own hook, so run before it
if hasattr(os, 'register_at_fork'):
    os.register_at_fork(before=_before_fork)
    if sys.version_info < (3, 10):  # later ones start a program without the handlers of a fork
        sys.addaudithook(_before_subprocess)
