"""The end of a process, forks, and programs that are started wait for the engine first.

MXNet's shutdown stops the threads that run callbacks of custom operators, and then waits for
operators that are still queued: for ever. Its preparation of a fork, a handler in C that runs after
Python's, waits for such a thread with Python's lock, which the thread needs.
"""
import ctypes
import logging
import os
import subprocess
import sys
import time
from functools import wraps
from multiprocessing import util

import mxnet as mx
from mxnet.base import _LIB
from mxnet.executor import Executor

logger = logging.getLogger('center_loss_op')

# What MXNet calls at a fork: it ends the threads that run callbacks, and starts new ones. Through
# ctypes these functions release Python's lock while they wait. Other builds may not have them.
try:
    _INITIALIZER = _LIB['_ZN5mxnet18LibraryInitializer3GetEv']
    _INITIALIZER.restype = ctypes.c_void_p
    _AFTER_FORK = _LIB['_ZN5mxnet18LibraryInitializer13atfork_parentEv']
    _BEFORE_FORK = _LIB['_ZN5mxnet18LibraryInitializer14atfork_prepareEv']
except AttributeError:
    _BEFORE_FORK = None


def wait_for_engine():
    """Wait for every queued operator, and for the threads that run callbacks to end."""
    try:
        mx.nd.waitall()
    except mx.MXNetError as error:
        logger.error('a queued operator failed: %s', error)
    # After its callback, a thread still has to free the callback, which needs Python's lock again.
    # Of 25 processes that restarted the threads of the pooled engine, 7 crashed at their end.
    if _BEFORE_FORK and os.environ.get('MXNET_ENGINE_TYPE') != 'ThreadedEngine':
        this = ctypes.c_void_p(_INITIALIZER())
        _BEFORE_FORK(this)
        _AFTER_FORK(this)
    else:
        time.sleep(0.01)  # enough, unless the machine is very busy


def _waits_and_shuts_down(shutdown):
    """The function of MXNet's library that MXNet's exit handler calls, and so the last one: exit
    handlers that a program has registered after MXNet's may still queue operators.
    """
    def wait_and_shut_down():
        try:
            wait_for_engine()
        finally:
            result = shutdown()
        # Leave executors that are still alive to the operating system. Else a thread of the engine
        # frees their operators and asks for Python's lock, and Python ends a thread so late.
        Executor.__del__ = lambda self: None
        return result
    return wait_and_shut_down


# Programs are started by a plain fork, without Python's handlers of forks, before Python 3.10, and
# if one of these local variables of `subprocess.Popen._execute_child` is set.
_HAS_VFORK = sys.version_info >= (3, 10)
_FORKING = ('preexec_fn', 'uid', 'gid', 'gids')


def _before_program(event, args):
    """An audit hook: waits if a program is going to be started by a plain fork."""
    if event == 'subprocess.Popen':
        local = sys._getframe(1).f_locals
        if (not _HAS_VFORK or not getattr(subprocess, '_USE_VFORK', True)
                or any(local.get(name, '') is not None for name in _FORKING)):
            wait_for_engine()


def _waits_and_spawns(spawn):
    @wraps(spawn)
    def wait_and_spawn(*args):
        wait_for_engine()
        return spawn(*args)
    return wait_and_spawn


def install():
    _LIB.MXNotifyShutdown = _waits_and_shuts_down(_LIB.MXNotifyShutdown)
    os.register_at_fork(before=wait_for_engine)
    sys.addaudithook(_before_program)
    if not _HAS_VFORK:
        util.spawnv_passfds = _waits_and_spawns(util.spawnv_passfds)  # type: ignore[assignment]
    return 'installed'
