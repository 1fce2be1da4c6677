"""The end of a process, forks, and programs that are started, while operators are queued.

MXNet runs the callbacks of custom operators in threads of its own. Its shutdown stops these threads
while operators are still queued, and waits for the queue after that, so it never ends. Its
preparation of a fork, a handler in C that runs after Python's, holds Python's lock while it waits
for a thread that needs this lock. So a process waits for the engine first.
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

__all__ = ['install_at_exit', 'install_before_forks', 'install_before_programs',
           'install_before_spawns', 'wait_for_engine']

logger = logging.getLogger('center_loss_op')


def wait_for_engine():
    """Wait for every queued operator, and for the threads that run callbacks to end.

    MXNet starts new threads when it needs them. An operator that failed is logged, not raised.
    """
    try:
        mx.nd.waitall()
    except mx.MXNetError as error:
        logger.error('a queued operator failed: %s', error)
    # After its callback, a thread still has to free the callback, which needs Python's lock again.
    if not _restart_threads():
        time.sleep(0.01)  # enough, unless the machine is very busy


def _restart_threads():
    """End the threads that run callbacks and start new ones; False if MXNet cannot do that."""
    if os.environ.get('MXNET_ENGINE_TYPE') == 'ThreadedEngine':
        return False  # 7 of 25 processes that did this with the pooled engine crashed at their end
    # MXNet calls these functions in a fork, before it and after it. Called through ctypes, they
    # release Python's lock while they wait.
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


def install_at_exit():
    """Replace the function of MXNet's library that MXNet's exit handler calls.

    An exit handler of our own would not do: those that a program registers between the imports of
    MXNet and of this package come later, and may still queue operators.
    """
    shutdown = _LIB.MXNotifyShutdown
    if not hasattr(shutdown, 'waits'):
        def wait_and_shut_down():
            try:
                wait_for_engine()
            finally:
                result = shutdown()
            # Executors that are still alive are left to the operating system. Python frees them
            # after its exit handlers; a thread of the engine then frees their operators and asks
            # for Python's lock, and Python ends a thread that asks so late.
            Executor.__del__ = lambda self: None
            return result
        wait_and_shut_down.waits = True  # type: ignore[attr-defined]
        _LIB.MXNotifyShutdown = wait_and_shut_down
    return 'replaced'


# `subprocess` starts a program without a fork unless one of these local variables of
# `Popen._execute_child` is set. (With `preexec_fn` it runs Python's handlers of forks as well.)
_FORKING = ('preexec_fn', 'uid', 'gid', 'gids')


def install_before_forks():
    """Register a handler of forks. Called once: Python cannot remove one."""
    if not hasattr(os, 'register_at_fork'):
        return None
    os.register_at_fork(before=wait_for_engine)
    return 'registered'


def install_before_programs():
    """Add an audit hook. Called once: Python cannot remove one."""
    sys.addaudithook(_before_program)
    return 'added'


def install_before_spawns():
    """Replace the function by which multiprocessing starts Python: before 3.10 it forks."""
    if sys.version_info >= (3, 10):
        return None
    spawn = util.spawnv_passfds
    if not hasattr(spawn, 'waits'):
        @wraps(spawn)
        def wait_and_spawn(*args):
            wait_for_engine()
            return spawn(*args)
        wait_and_spawn.waits = True  # type: ignore[attr-defined]
        util.spawnv_passfds = wait_and_spawn  # type: ignore[assignment]
    return 'replaced'


def _before_program(event, args):
    if event == 'subprocess.Popen' and _forks(sys._getframe(1).f_locals):
        wait_for_engine()


def _forks(local):
    """Whether `subprocess` forks here, without Python's handlers: `local` are its variables."""
    if sys.version_info < (3, 10) or not getattr(subprocess, '_USE_VFORK', True):
        return True
    return any(local.get(name, '') is not None for name in _FORKING)
