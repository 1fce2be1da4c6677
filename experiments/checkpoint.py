"""Checkpoints that survive a kill at any moment, and files that are whole or not there.

A checkpoint is a folder ``checkpoints/step-<updates>`` with

- ``model-symbol.json`` and ``model-0000.params``: network and centers, as
  ``mx.model.load_checkpoint('…/model', 0)`` and Gluon's ``load_parameters`` read them;
- ``optimizer.params``: the optimizer's arrays, by the names of their parameters;
- ``state.json``: options, position in the data, history;
- ``SHA256SUMS``: the checksums of the others, as ``sha256sum --check`` reads them.

It is written under another name and renamed when it is complete and on disk. The last two
are kept. A checkpoint is data: nothing in it is unpickled or run.
"""
import hashlib
import io
import json
import os
import re
import shutil
from typing import NamedTuple

from center_loss_op._mxnet.parameter_file import check_arrays  # before mxnet, for newer NumPys
import mxnet as mx
import numpy as np

from history import COLUMNS

_NAME = 'step-%08d'
_PATTERN = re.compile(r'step-(\d{8,})')
_UNFINISHED = '.unfinished-'
_SYMBOL, _MODEL, _OPTIMIZER, _STATE, _SUMS = (
    'model-symbol.json', 'model-0000.params', 'optimizer.params', 'state.json', 'SHA256SUMS')
_KEPT = 2


class CheckpointError(Exception):
    """A checkpoint that cannot be written or read."""


class Checkpoint(NamedTuple):
    """What a checkpoint holds."""
    path: str
    arg_params: dict
    aux_params: dict
    optimizer_states: dict
    state: dict


def write_file(path, content):
    """Write text or bytes so that `path` is the old file or the new one, never a part."""
    unfinished = '%s.unfinished' % path
    try:
        with open(unfinished, 'wb') as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        _remove(unfinished)
        raise CheckpointError('cannot write %s: %s' % (path, error.strerror)) from None


def npz(**arrays):
    """NumPy arrays as the bytes of an .npz file, for `write_file`."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def begin(folder):
    """Make `folder` ready for a new run; checkpoints of an earlier one are set aside.

    Returns
    -------
    str or None
        Where to, if there were any.
    """
    aside = None
    try:
        os.makedirs(folder, exist_ok=True)
        if _paths(folder):
            aside = _home(folder) + '-earlier'
            _remove(aside)
            os.rename(_home(folder), aside)
    except OSError as error:
        raise CheckpointError('cannot write to %s: %s' % (folder, error.strerror)) from None
    return aside


def save(folder, updates, symbol, arg_params, aux_params, optimizer_states, state):
    """Write the checkpoint after so many updates; it is there in full or not at all.

    Parameters
    ----------
    folder : str
        The output folder.
    updates : int
    symbol : Symbol
    arg_params, aux_params, optimizer_states : dict of str to NDArray
    state : dict
        Anything that JSON can hold.

    Returns
    -------
    str
        The path of the checkpoint.

    Raises
    ------
    CheckpointError
        It could not be written; earlier ones are as they were.
    """
    path = os.path.join(_home(folder), _NAME % updates)
    unfinished = os.path.join(_home(folder), _UNFINISHED + _NAME % updates)
    arrays = {'arg:' + name: array for name, array in arg_params.items()}
    arrays.update(('aux:' + name, array) for name, array in aux_params.items())
    try:
        os.makedirs(_home(folder), exist_ok=True)
        for name in os.listdir(_home(folder)):
            if name.startswith(_UNFINISHED):
                _remove(os.path.join(_home(folder), name))
        os.mkdir(unfinished)
        for name, content in ((_SYMBOL, symbol.tojson()), (_STATE, json.dumps(state))):
            with open(os.path.join(unfinished, name), 'w', encoding='utf-8') as file:
                file.write(content)
        for name, content in ((_MODEL, arrays), (_OPTIMIZER, optimizer_states)):
            _save_arrays(os.path.join(unfinished, name), content)
        sums = ''.join('%s  %s\n' % (_checksum(os.path.join(unfinished, name)), name)
                       for name in (_SYMBOL, _MODEL, _OPTIMIZER, _STATE))
        with open(os.path.join(unfinished, _SUMS), 'w', encoding='utf-8') as file:
            file.write(sums)
        for name in (_SYMBOL, _MODEL, _OPTIMIZER, _STATE, _SUMS, ''):
            _to_disk(os.path.join(unfinished, name))
        if os.path.exists(path):  # one that could not be read, or one of the same step
            os.rename(path, os.path.join(_home(folder), _UNFINISHED + 'replaced'))
        os.rename(unfinished, path)
        _to_disk(_home(folder))
        _prune(folder, updates)
    except OSError as error:
        _remove(unfinished)
        last = _paths(folder)
        raise CheckpointError('cannot write %s: %s; %s' % (
            path, error.strerror,
            'the last checkpoint is %s' % last[-1] if last else 'there is no earlier one')
            ) from None
    return path


def load(folder, warn):
    """The last checkpoint in an output folder that is whole, or None where there is none.

    Parameters
    ----------
    folder : str
    warn : callable
        Gets a line of text for each checkpoint that is not whole.

    Raises
    ------
    CheckpointError
        There are checkpoints, but not one of them is whole.
    """
    paths = _paths(folder)
    for path in reversed(paths):
        try:
            return read(path)
        except CheckpointError as error:
            others = [other for other in paths if other < path]
            warn('%s; %s' % (error, 'continuing from the one before it, %s' % others[-1]
                             if others else 'there is none before it'))
    if paths:
        raise CheckpointError('no checkpoint in %s can be read: start again without --resume'
                              % _home(folder))
    return None


def latest(folder):
    """The path of the newest checkpoint in an output folder, or None."""
    paths = _paths(folder)
    return paths[-1] if paths else None


def read(path):
    """The Checkpoint at `path`, checked from end to end.

    Raises
    ------
    CheckpointError
        Names the checkpoint and what is wrong with it.
    """
    try:
        with open(os.path.join(path, _SUMS), encoding='utf-8') as file:
            sums = dict(line.split()[::-1] for line in file)
        for name in (_SYMBOL, _MODEL, _OPTIMIZER, _STATE):
            if sums.get(name) != _checksum(os.path.join(path, name)):
                raise ValueError('the checksum of %s is not that in %s' % (name, _SUMS))
        model = _load_arrays(os.path.join(path, _MODEL))
        optimizer_states = _load_arrays(os.path.join(path, _OPTIMIZER))
        state = _load_state(os.path.join(path, _STATE))
    except OSError as error:
        name = os.path.basename(error.filename or path)  # a failing disk names no file
        raise CheckpointError('checkpoint %s cannot be read: %s: %s'
                              % (path, name, error.strerror)) from None
    except ValueError as error:
        raise CheckpointError('checkpoint %s is corrupt: %s' % (path, error)) from None
    kinds = {kind: {name[4:]: array for name, array in model.items() if name[:4] == kind}
             for kind in ('arg:', 'aux:')}
    return Checkpoint(path, kinds['arg:'], kinds['aux:'], optimizer_states, state)


def optimizer_states(updater, names, copies=1):
    """The arrays of an mx.optimizer.Updater by the names of their parameters.

    Parameters
    ----------
    updater : mxnet.optimizer.Updater
    names : list of str
        The names of the parameters in the order of their indices.
    copies : int
        How many indices each parameter has; all copies are alike, the first is taken.
    """
    arrays = {}
    for index, name in enumerate(names):
        state = updater.states.get(index * copies)
        if isinstance(state, (tuple, list)):
            arrays.update(('%s.%d' % (name, part), array) for part, array in enumerate(state))
        elif state is not None:
            arrays[name] = state
    return arrays


def restore_optimizer(updater, names, arrays, copies=1):
    """Give an mx.optimizer.Updater what :func:`optimizer_states` has taken from another."""
    states = {}
    for key in sorted(arrays):
        name, _, part = key.partition('.')
        if part:
            states.setdefault(name, []).append(arrays[key])
        else:
            states[name] = arrays[key]
    for index, name in enumerate(names):
        for copy in range(index * copies, (index + 1) * copies):
            state = states.get(name)
            if isinstance(state, list):
                state = tuple(array.copy() for array in state)
            elif state is not None:
                state = state.copy()
            # The updater takes it to the device of the parameter when it is needed first.
            updater.states[copy], updater.states_synced[copy] = state, False


def _home(folder):
    return os.path.join(folder, 'checkpoints')


def _paths(folder):
    """The paths of the finished checkpoints, oldest first."""
    try:
        names = os.listdir(_home(folder))
    except OSError:
        return []
    names = sorted((name for name in names if _PATTERN.fullmatch(name)), key=_updates)
    return [os.path.join(_home(folder), name) for name in names]


def _updates(path):
    return int(_PATTERN.fullmatch(os.path.basename(path)).group(1))


def _prune(folder, updates):
    """Keep the last two; what lies beyond `updates` is of a future that did not come."""
    paths = _paths(folder)
    past = [path for path in paths if _updates(path) <= updates]
    for path in set(paths) - set(past[-_KEPT:]):
        # Renamed first: a folder that is half gone must not look like a checkpoint.
        removed = os.path.join(_home(folder), _UNFINISHED + 'removed')
        _remove(removed)
        os.rename(path, removed)
        _remove(removed)
    _remove(os.path.join(_home(folder), _UNFINISHED + 'replaced'))


def _remove(path):
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.exists(path):
        os.remove(path)


def _to_disk(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _checksum(path):
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for chunk in iter(lambda: file.read(1 << 20), b''):
            digest.update(chunk)
    return digest.hexdigest()


def _save_arrays(path, arrays):
    """mx.nd.save, and a look at what is there: a full disk can go unnoticed by MXNet."""
    try:
        mx.nd.save(path, {name: array.as_in_context(mx.cpu()) for name, array in arrays.items()})
        check_arrays(path)
    except (mx.MXNetError, ValueError):
        raise OSError(None, 'not all of %s could be written, is the disk full?'
                      % os.path.basename(path)) from None


def _load_arrays(path):
    if not check_arrays(path):
        return {}  # MXNet has an empty list for them
    try:
        return mx.nd.load(path)
    except mx.MXNetError:  # its message has many lines
        raise ValueError('MXNet cannot load %s' % os.path.basename(path)) from None


def _load_state(path):
    """The state of a checkpoint, with all that the examples read from it."""
    with open(path, encoding='utf-8') as file:
        try:
            state = json.load(file)
        except (ValueError, RecursionError) as error:
            raise ValueError('%s: %s' % (_STATE, error)) from None

    def part(holder, key, *kinds):
        # By their exact types: True is no number here.
        if not isinstance(holder, dict) or type(holder.get(key)) not in kinds:
            raise ValueError('%s has no "%s", or one of another type' % (_STATE, key))
        return holder[key]

    part(part(state, 'options', dict), 'dataset', str)
    history = part(state, 'history', dict)
    part(history, 'seconds', int, float)
    if part(history, 'batch', int) < 0:
        raise ValueError('%s goes on at batch %d' % (_STATE, history['batch']))
    for row in part(history, 'rows', list):
        for column in COLUMNS:
            part(row, column, int, float)
        if len(row) > len(COLUMNS):
            raise ValueError('%s has epochs of more than the columns %s'
                             % (_STATE, ', '.join(COLUMNS)))
    kinds = [[type(number) for number in pair] if isinstance(pair, list) else None
             for pair in part(history, 'totals', list)]
    if kinds != [[float, int]] * 3:
        raise ValueError('%s does not have three "totals" of a sum and a count' % _STATE)
    return state
