"""The list of what the package changes is complete, and each entry's test exists."""
import json
import re
from pathlib import Path

from center_loss_op._mxnet import CHANGES, done
from center_loss_op._mxnet.compat import RESTORED

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Prints the names of what an import changes. What Python does not show is recorded as it is called.
COMPARE = '''
import asyncio, atexit, builtins, ctypes, json, logging, multiprocessing, os, signal, subprocess
import sys, threading, types, warnings
import onnx  # which MXNet's exporter imports
import mxnet, mxnet.onnx, numpy

calls = set()
def recorded(module, name):
    function = getattr(module, name)
    def record(*args, **kwargs):
        calls.add(module.__name__ + '.' + name)
        return function(*args, **kwargs)
    setattr(module, name, record)

for module, name in [(os, 'register_at_fork'), (sys, 'addaudithook'), (atexit, 'register'),
                     (signal, 'signal'), (sys, 'setprofile'), (sys, 'settrace'),
                     (threading, 'setprofile'), (threading, 'settrace'), (os, 'putenv'),
                     (multiprocessing, 'set_start_method'), (signal, 'set_wakeup_fd')]:
    recorded(module, name)

def inside(value):
    """What `value` holds, by name."""
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, (list, tuple)):
        return dict(enumerate(value))
    if isinstance(value, (set, frozenset)):
        return {str(one): one for one in value}
    if isinstance(value, ctypes.CDLL) or type(value).__module__.split('.')[0] == 'mxnet':
        return dict(getattr(value, '__dict__', {}))
    return {}

def walk(name, names, found, depth):
    """Note each of `names` in `found`: its identity, or what it is; and what it holds."""
    for key, value in names.items():
        # Not changes: functions of a library that were looked up, modules that were imported.
        if isinstance(value, (ctypes._CFuncPtr, types.ModuleType)):
            continue
        place = '%s.%s' % (name, key)
        plain = isinstance(value, (int, float, str, bytes, bool, type(None)))
        found[place] = repr(value) if plain else id(value)
        kept.append(value)
        if isinstance(value, type):
            if value.__module__.split('.')[0] in WATCHED:
                name_of_class = value.__module__ + '.' + value.__qualname__
                for key_in_class, one in vars(value).items():
                    found[name_of_class + '.' + key_in_class] = id(one)
                    kept.append(one)
        elif depth:
            walk(place, inside(value), found, depth - 1)

WATCHED = ('mxnet', 'numpy', 'onnx', 'asyncio', 'logging', 'multiprocessing', 'builtins', 'os',
           'signal', 'subprocess', 'threading', 'warnings', 'atexit', 'sys', 'ctypes')
# What Python notes of imports, types of functions in C, and running threads.
IGNORED = ('ctypes._c_functype_cache', 'sys.modules', 'sys.path_importer_cache',
           'threading._active', 'threading._dangling')

kept = []  # what is there stays alive, so that nothing new gets its identity
def state():
    found = {}
    for name, module in sorted(sys.modules.items()):
        if name.split('.')[0] in WATCHED and name not in new_modules:
            walk(name, dict(vars(module)), found, 3)
    found = {name: value for name, value in found.items() if not name.startswith(IGNORED)
             and not name.endswith(('.__warningregistry__', '.__abstractmethods__'))}
    found['exit handlers'] = atexit._ncallbacks()
    found['threads'] = str(sorted(thread.name for thread in threading.enumerate()))
    found['environment'] = str(sorted(os.environ.items()))
    found['warnings.filters'] = str(warnings.filters)
    found['logging.handlers'] = str(logging.getLogger().handlers), logging.root.level
    found['multiprocessing._config'] = str(multiprocessing.current_process()._config)
    found['profile'] = str((sys.getprofile(), sys.gettrace()))
    for number in signal.valid_signals():
        found['signal %d' % number] = str(signal.getsignal(number))
    return found

new_modules = ()
before, modules = state(), set(sys.modules)
exec(sys.argv[1])
new_modules = set(sys.modules) - modules
after = state()
changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
print(json.dumps(sorted(changed | calls)))
'''


def compared(child, code):
    """The names of what `code` changes."""
    done = child(COMPARE, code)
    assert done.returncode == 0, done.stderr
    # Every module of MXNet has this library; an exit handler is registered by a recorded function.
    return {re.sub(r'^mxnet\..*_LIB\.', 'mxnet.base._LIB.', name)
            for name in json.loads(done.stdout.splitlines()[-1])} - {'exit handlers'}


def named(change, changed):
    """Those of the names `changed` that an entry names, or of which it names the holder."""
    words = {word.strip('.') for word in re.findall(r'[\w.]+', change.what)}
    return {name for name in changed if name in words or name.rpartition('.')[0] in words}


@pytest.mark.skipif(RESTORED, reason='MXNet alone cannot be imported with this NumPy')
def test_the_list_is_complete(child):
    pytest.importorskip('onnx')
    changed = compared(child, 'import center_loss_op, center_loss_op.__main__')
    entries = [change for change in CHANGES if change.function and done(change) is not None]
    assert changed == set().union(*(named(change, changed) for change in entries))
    for change in entries:
        assert named(change, changed), change.what


def test_each_entry_names_a_test():
    for change in CHANGES:
        path, _, function = change.test.partition('::')
        assert f'def {function}' in (ROOT / path).read_text(encoding='utf-8')
