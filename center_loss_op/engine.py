"""All that has to be done because of MXNet's engine: reads, the end of a process, forks.

**Reads.** To the engine the backward pass of a custom operator only reads an auxiliary state, so a
read that is queued after it may come before the update: see :func:`fence`.

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
import weakref
from functools import wraps

import mxnet as mx
from mxnet.base import _LIB, check_call
from mxnet.executor import Executor

from .nodes import center_losses

__all__ = ['fence', 'settle']

logger = logging.getLogger('center_loss_op')


# What the engine is asked to run: any C function will do, and this one takes no arguments.
_nothing = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p)
_cpu = (ctypes.c_int * 2)(mx.Context.devstr2type['cpu'], 0)


def fence(array):
    """Have reads of `array` that are queued from now on wait for the operators queued before.

    The engine runs a write after all reads that were queued before it, and before all that are
    queued later. This queues one that writes nothing: nobody waits here, and 3 us are all it costs.
    """
    written = (ctypes.c_void_p * 1)(array.handle)
    check_call(_LIB.MXEnginePushSyncND(_nothing, None, None, ctypes.byref(_cpu), None, 0, written,
                                       1, None, 0, b'center_loss_fence'))


_centers_of = weakref.WeakKeyDictionary()   # an executor's, found when it first runs backward


def _fenced(backward):
    """`Executor.backward`, and a fence behind it for the centers of each center loss."""
    @wraps(backward)
    def fenced_backward(self, *args, **kwargs):
        backward(self, *args, **kwargs)
        if self not in _centers_of:
            names = {loss.centers for loss in center_losses(self._symbol)}
            _centers_of[self] = [self.aux_dict[name] for name in names]
        for centers in _centers_of[self]:
            fence(centers)
    return fenced_backward


Executor.backward = _fenced(Executor.backward)


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
