"""Forks, and programs that are started, while operators are queued: the parent waits first.

MXNet registers handlers of forks of its own, in C, which run after Python's.
"""
import os
import subprocess
import sys
from functools import wraps
from multiprocessing import util

from .engine import wait_for_engine

__all__ = ['install_before_forks', 'install_before_programs', 'install_before_spawns']

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
        wait_and_spawn.waits = True
        util.spawnv_passfds = wait_and_spawn
    return 'replaced'


def _before_program(event, args):
    if event == 'subprocess.Popen' and _forks(sys._getframe(1).f_locals):
        wait_for_engine()


def _forks(local):
    """Whether `subprocess` forks here, without Python's handlers: `local` are its variables."""
    if sys.version_info < (3, 10) or not getattr(subprocess, '_USE_VFORK', True):
        return True
    return any(local.get(name, '') is not None for name in _FORKING)
