"""Checkpoints that survive a kill at any moment, and files that are whole or not there.

A checkpoint is a folder ``checkpoints/step-<updates>`` with

- ``model-symbol.json`` and ``model-0000.params``: network and centers, as
  ``mx.model.load_checkpoint('…/model', 0)`` and Gluon's ``load_parameters`` read them;
- ``optimizer.params``: the optimizer's arrays, by the names of their parameters;
- ``state.json``: what the script keeps beside the arrays;
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

import center_loss_op  # noqa: F401  (before mxnet, for newer NumPys)

import mxnet as mx
import numpy as np
from parameter_file import check_arrays

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


def home(folder):
    """Where the checkpoints of an output folder are."""
    return os.path.join(folder, 'checkpoints')


def begin(folder):
    """Set the checkpoints of an earlier run aside, so that a new one can begin in `folder`.

    They are renamed to ``checkpoints-earlier``, or the first of ``checkpoints-earlier-2``, … that
    is free. Nothing is deleted.

    Returns
    -------
    str or None
        Where they are now, if there were any.
    """
    if not _paths(folder):
        return None
    aside, number = home(folder) + '-earlier', 1
    while os.path.lexists(aside):
        number += 1
        aside = '%s-earlier-%d' % (home(folder), number)
    try:
        os.rename(home(folder), aside)
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
    path = os.path.join(home(folder), _NAME % updates)
    unfinished = os.path.join(home(folder), _UNFINISHED + _NAME % updates)
    arrays = {'arg:' + name: array for name, array in arg_params.items()}
    arrays.update(('aux:' + name, array) for name, array in aux_params.items())
    try:
        os.makedirs(home(folder), exist_ok=True)
        for name in os.listdir(home(folder)):
            if name.startswith(_UNFINISHED):
                _remove(os.path.join(home(folder), name))
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
            os.rename(path, os.path.join(home(folder), _UNFINISHED + 'replaced'))
        os.rename(unfinished, path)
        _to_disk(home(folder))
        _prune(folder, updates)
    except OSError as error:
        _remove(unfinished)
        last = _paths(folder)
        raise CheckpointError('cannot write %s: %s; %s' % (
            path, error.strerror,
            'the last checkpoint is %s' % last[-1] if last else 'there is no earlier one')
            ) from None
    return path


def load(folder, warn, check=None):
    """The last checkpoint in an output folder that is whole, or None if there is none.

    Parameters
    ----------
    folder : str
    warn : callable
        Gets a line of text for each checkpoint that is not whole.
    check : callable, optional
        As for :func:`read`.

    Raises
    ------
    CheckpointError
        There are checkpoints, but not one of them is whole.
    """
    paths = _paths(folder)
    for path in reversed(paths):
        try:
            return read(path, check)
        except CheckpointError as error:
            others = [other for other in paths if other < path]
            warn('%s; %s' % (error, 'continuing from the one before it, %s' % others[-1]
                             if others else 'there is none before it'))
    if paths:
        raise CheckpointError('no checkpoint in %s can be read: start again without --resume'
                              % home(folder))
    return None


def latest(folder):
    """The path of the newest checkpoint in an output folder, or None."""
    paths = _paths(folder)
    return paths[-1] if paths else None


def read(path, check=None):
    """The Checkpoint at `path`, checked from end to end.

    Parameters
    ----------
    path : str
    check : callable, optional
        Called with the state; it raises ValueError if the script cannot continue from it.

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
        if check:
            try:
                check(state)
            except ValueError as error:
                raise ValueError('%s: %s' % (_STATE, error)) from None
    except OSError as error:
        name = os.path.basename(error.filename or path)  # a failing disk names no file
        raise CheckpointError('checkpoint %s cannot be read: %s: %s'
                              % (path, name, error.strerror)) from None
    except ValueError as error:
        raise CheckpointError('checkpoint %s is corrupt: %s' % (path, error)) from None
    kinds = {kind: {name[4:]: array for name, array in model.items() if name[:4] == kind}
             for kind in ('arg:', 'aux:')}
    return Checkpoint(path, kinds['arg:'], kinds['aux:'], optimizer_states, state)


def optimizer_states(updater, names):
    """The arrays of an mx.optimizer.Updater by the names of their parameters.

    Parameters
    ----------
    updater : mxnet.optimizer.Updater
    names : dict of int to str
        The indices of the trained parameters, and their names.
    """
    arrays = {}
    for index, name in names.items():
        state = updater.states.get(index)
        if isinstance(state, (tuple, list)):
            arrays.update(('%s.%d' % (name, part), array) for part, array in enumerate(state))
        elif state is not None:
            arrays[name] = state
    return arrays


def restore_parameters(parameters, arrays, path):
    """Set Gluon parameters to the arrays of the same names.

    Parameters
    ----------
    parameters : dict of str to mxnet.gluon.Parameter
    arrays : dict of str to NDArray
    path : str
        The file or folder that the arrays come from, for the error.

    Raises
    ------
    CheckpointError
        Names the first parameter that is not there, or has another shape.
    """
    for name, parameter in parameters.items():
        if name not in arrays:
            raise CheckpointError('%s has no parameter %s' % (path, name))
        try:
            parameter.set_data(arrays[name])
        except AssertionError:  # of shapes
            raise CheckpointError('%s has a parameter %s of shape %s, the network needs %s' % (
                path, name, arrays[name].shape, parameter.shape)) from None


def restore_optimizer(updater, names, arrays, path):
    """Give an mx.optimizer.Updater what :func:`optimizer_states` took from another.

    Parameters
    ----------
    updater, names
        As for :func:`optimizer_states`.
    arrays : dict of str to NDArray
    path : str
        The file or folder that the arrays come from, for the error.

    Raises
    ------
    CheckpointError
        Names the first parameter without a state.
    """
    states = {}
    for key in sorted(arrays):
        name, _, part = key.partition('.')
        if part:
            states.setdefault(name, []).append(arrays[key])
        else:
            states[name] = arrays[key]
    for index, name in names.items():
        if name not in states:
            raise CheckpointError('%s has no optimizer state of parameter %s' % (path, name))
        state = states[name]
        # The updater moves it to the device of the parameter when it first needs it.
        updater.states_synced[index] = False
        updater.states[index] = (tuple(array.copy() for array in state)
                                 if isinstance(state, list) else state.copy())


def _paths(folder):
    """The paths of the finished checkpoints, oldest first."""
    try:
        names = os.listdir(home(folder))
    except OSError:
        return []
    names = sorted((name for name in names if _PATTERN.fullmatch(name)), key=_updates)
    return [os.path.join(home(folder), name) for name in names]


def _updates(path):
    return int(_PATTERN.fullmatch(os.path.basename(path)).group(1))


def _prune(folder, updates):
    """Keep the last two; what lies beyond `updates` is of a future that did not come."""
    paths = _paths(folder)
    past = [path for path in paths if _updates(path) <= updates]
    for path in set(paths) - set(past[-_KEPT:]):
        # Renamed first: a folder that is half gone must not look like a checkpoint.
        removed = os.path.join(home(folder), _UNFINISHED + 'removed')
        _remove(removed)
        os.rename(path, removed)
        _remove(removed)
    _remove(os.path.join(home(folder), _UNFINISHED + 'replaced'))


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
    with open(path, encoding='utf-8') as file:
        try:
            return json.load(file)
        except (ValueError, RecursionError) as error:
            raise ValueError('%s: %s' % (_STATE, error)) from None
