"""The end of a process while operators are queued: MXNet's shutdown waits for them first.

The wait belongs into MXNet's shutdown, not into an exit handler of its own: exit handlers that a
program registers between the imports of MXNet and of this package may still queue operators.
"""
from mxnet.base import _LIB
from mxnet.executor import Executor

from .engine import wait_for_engine

__all__ = ['install']


def install():
    """Replace the function of MXNet's library that MXNet's exit handler calls."""
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
        wait_and_shut_down.waits = True
        _LIB.MXNotifyShutdown = wait_and_shut_down
    return 'replaced'
