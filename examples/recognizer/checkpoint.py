"""Files that are complete or not there: checkpoints of a training, and OUT as one network.

No link in OUT is followed, and nothing is unpickled. recognize.py uses this module without MXNet.
"""
import contextlib
import errno
import hashlib
import io
import json
import os
import re
import stat
import sys
import time
import zipfile

import numpy as np

try:
    import fcntl
except ImportError:     # Windows: there, nobody keeps two programs apart
    fcntl = None

FORMAT = 1
DESCRIPTION = 'recognizer.json'
# Sides of the input of a network, and sizes of an embedding.
SIDES, FEATURES = (8, 4096), (1, 65536)
_UNFINISHED = re.compile(r'\.[^/]+\.unfinished')
# More than so many bytes that came out of a hundredth is no data, but an attack on the memory.
_LARGE, _RATIO = 2 ** 28, 100
# How a file is opened: no link is followed, and a pipe does not wait for its writer.
_SAFE = sum(getattr(os, name, 0) for name in ('O_NOFOLLOW', 'O_NONBLOCK', 'O_BINARY'))


class DataError(Exception):
    """What the user can put right, as one line: it ends the program."""


@contextlib.contextmanager
def one_line(doing):
    """A context that says in a line what the system did not allow."""
    try:
        yield
    except OSError as error:
        reason = 'it is a link' if error.errno == errno.ELOOP else error.strerror or error
        raise DataError(f'cannot {doing}: {reason}') from None


# -- single files


def write(path, writer):
    """Write a file so that it is the old one or the new one, never a part; a link is replaced.

    `writer` is the content, bytes or str, or a function that is called with a binary file.
    """
    folder, name = os.path.split(path)
    unfinished = os.path.join(folder, f'.{name}.{os.getpid()}.unfinished')
    with one_line(f'write {path}'):
        try:
            _remove(unfinished)
            with open(unfinished, 'xb') as file:
                if callable(writer):
                    writer(file)
                else:
                    file.write(writer.encode() if isinstance(writer, str) else writer)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            _remove(unfinished)


def _remove(path):
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def read_file(path, most=2 ** 40):
    """The bytes of a regular file that is no link and has no more than `most`."""
    with one_line(f'read {path}'), open(os.open(path, os.O_RDONLY | _SAFE), 'rb') as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size > most:
            raise DataError(f'cannot read {path}: it is no file, or one of more bytes than '
                            'such a file can have')
        return file.read()


def digest(path):
    """The SHA-256 of a file (a path), or of bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(path if isinstance(path, bytes) else read_file(path)).hexdigest()


def make_folder(out, *names):
    """The path of a folder below OUT, which is made if it is not there; it must be no link."""
    path = out
    with one_line(f'write to {out}'):
        os.makedirs(out, exist_ok=True)
        for name in names:
            path = os.path.join(path, name)
            with contextlib.suppress(FileExistsError):
                os.mkdir(path)
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise DataError(f'cannot write to {path}: it is no folder, or a link')
    return path


def json_object(content, path):
    """The dictionary in a JSON file; NaN and infinity are no JSON."""
    def refuse(name):
        raise ValueError(f'{name} is no number')

    try:
        result = json.loads(content.decode(), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise DataError(f'cannot read {path}: {error}') from None
    if not isinstance(result, dict):
        raise DataError(f'cannot read {path}: it is no object')
    return result


def read_npz(content, path='the .npz file'):
    """{name: array} of an .npz file, bytes or a binary file; `path` is what an error calls it.

    Nothing is unpickled, and no header can ask for more memory than the file has data.
    """
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(one.file_size for one in archive.infolist())
            if size > max(_LARGE, _RATIO * file.seek(0, os.SEEK_END)):
                raise ValueError(f'it would take {size} bytes of memory, out of proportion')
            for one in archive.infolist():
                if one.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError(f'{one.filename} is compressed in an unusual way')
                # Headers of later versions have any length.
                if archive.open(one).read(8) != b'\x93NUMPY\1\0':
                    raise ValueError(f'{one.filename} is no array of numbers')
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    # A damaged file makes zipfile and NumPy raise nearly anything.
    except Exception as error:
        reason = str(error).split('\n')[0][:200] or type(error).__name__
        raise DataError(f'cannot read {path}: {reason}') from None


def npz(**arrays):
    """The bytes of an .npz file with these arrays."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


# -- one program at a time


@contextlib.contextmanager
def lock(out, wait=0.):
    """A context in which no other program changes OUT, which is made if it is not there. Another
    one waits so many seconds, and then says why it does nothing."""
    path, end = os.path.join(make_folder(out), '.lock'), time.monotonic() + wait
    with one_line(f'write {path}'):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | _SAFE, 0o666)
    with open(handle, 'rb') as file:
        while fcntl:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise DataError(f'{out} is in use by another program: wait until it has '
                                    'ended') from None
                time.sleep(0.1)
            except OSError as error:    # on some file systems of networks
                print(f'cannot lock {out} ({error.strerror}): start nothing else in it',
                      file=sys.stderr)
                break
        for name in filter(_UNFINISHED.fullmatch, os.listdir(out)):     # of programs that ended
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(out, name))
        yield


# -- states of a training, a file each


def save_state(folder, epoch, arrays, state):
    """Write the state after an epoch, {name: array} and what JSON can hold; the last two stay."""
    text = np.frombuffer(json.dumps(state).encode(), np.uint8)
    write(os.path.join(folder, f'epoch-{epoch:04d}.npz'),
          lambda file: np.savez(file, state=text, **arrays))
    for path in _states(folder)[:-2]:
        os.unlink(path)


def _states(folder):
    """The paths of the states in a folder, oldest first."""
    names = filter(re.compile(r'epoch-\d{4,}\.npz').fullmatch, os.listdir(folder))
    return [os.path.join(folder, name) for name in sorted(names, key=lambda one: (len(one), one))]


def load_state(folder, say):
    """(epoch, arrays, state) of the last state that is whole, or None if there is none.

    `say` is called with a line about each one that is damaged and passed over.
    """
    paths = _states(folder)
    for path in reversed(paths):
        try:
            arrays = read_npz(read_file(path), path)
            state = json_object(arrays.pop('state', np.zeros(0)).tobytes(), path)
            return int(path[:-len('.npz')].split('-')[-1]), arrays, state
        except DataError as error:
            say(f'passed over a damaged checkpoint: {error}')
    if paths:
        raise DataError(f'no checkpoint in {folder} can be read: take another --output-dir')
    return None


# -- OUT as one network


def publish(out, files, description):
    """Make `files`, {name: bytes}, and recognizer.json OUT's network, in place of the one before.

    The files are written as NAME.new, recognizer.json then says their digests and so makes them
    OUT's network, and they get their names. After a kill at any moment OUT is the old or the new
    one: `load_recognizer` reads NAME.new.
    """
    digests = {name: digest(bytes(content)) for name, content in files.items()}
    description = {'format': FORMAT, **description, 'files': digests}
    text = json.dumps(description, indent=2, allow_nan=False) + '\n'
    _check(json.loads(text), DESCRIPTION)
    before = {}
    with contextlib.suppress(DataError):
        before = _described(out)['files']
        _rename(out, before)        # finish what a kill interrupted
    for name, content in files.items():
        write(os.path.join(out, f'{name}.new'), content)
    write(os.path.join(out, DESCRIPTION), text)
    with one_line(f'write to {out}'):
        _rename(out, digests)
        for name in set(before) - set(files):
            _remove(os.path.join(out, name))


def _rename(out, digests):
    """Give the files of the network their names."""
    for name in digests:
        new = os.path.join(out, f'{name}.new')
        if os.path.lexists(new) and digest(new) == digests[name]:
            os.replace(new, os.path.join(out, name))


def load_recognizer(out, names=('embedding.onnx',)):
    """recognizer.json of OUT as a dictionary, after all its fields were checked.

    `content` in it has the bytes of the files in `names`, whose digests were checked: use them
    instead of opening the files, which another training can replace meanwhile.
    """
    for attempt in range(5):
        time.sleep(0.05 * bool(attempt))    # another program may just be publishing
        description = _described(out)
        try:
            description['content'] = {name: _content(out, name, description['files'])
                                      for name in names}
            return description
        except DataError as error:
            reason = error
    raise reason


def _content(out, name, digests):
    path = os.path.join(out, name)
    if name not in digests:
        raise DataError(f'{os.path.join(out, DESCRIPTION)} names no {name}: train again, '
                        "with all of pip install 'center_loss_op[examples,onnx]'")
    for candidate in filter(os.path.lexists, (path, f'{path}.new')):
        content = read_file(candidate)
        if digest(content) == digests[name]:
            return content
    raise DataError(f'{path} is missing, or not the file that {DESCRIPTION} describes: '
                    'restore it, or train again')


def _described(out):
    path = os.path.join(out, DESCRIPTION)
    if not os.path.lexists(path):
        raise DataError(f'{out} has no {DESCRIPTION}: OUT must be the --output-dir of '
                        'train.py, or of recognize.py import')
    description = json_object(read_file(path, 2 ** 24), path)
    _check(description, path)
    return description


def _number(value, low=-1e30, high=1e30, kinds=(int, float)):
    return type(value) in kinds and low <= value <= high


def _numbers(values, low=-1e30):
    return len(values) in (1, 3) and all(_number(value, low) for value in values)


def _limits(thresholds):
    """Whether these are {share: [[enrolled classes, distance], …]} of 'pairs' and 'strangers'."""
    return all(re.fullmatch(r'0?\.\d+|1(\.0)?|\d+(\.\d+)?e-\d+', share) and 0 < float(share) <= 1
               and all(_number(count, 1, 10 ** 9, [int]) and _number(limit)
                       for count, limit in points)
               for kind in ('pairs', 'strangers') for share, points in thresholds[kind].items())


# What recognizer.json has, and whether that can be used.
_FIELDS = {
    'format': lambda it: it == FORMAT,
    'size': lambda it: len(it) == 2 and all(_number(side, *SIDES, [int]) for side in it),
    'channels': lambda it: _number(it, 1, 3, [int]) and it != 2,
    'mean': _numbers, 'std': lambda it: _numbers(it, 1e-9),
    'features': lambda it: _number(it, *FEATURES, [int]),
    'distance': lambda it: it in ('cosine', 'euclidean'), 'thresholds': _limits,
    'network': lambda it: isinstance(it, str), 'row': lambda it: isinstance(it, dict),
    'classes': lambda it: type(it) is list and all(isinstance(name, str) for name in it),
    'files': lambda it: all(
        re.fullmatch(r'[A-Za-z0-9_-][A-Za-z0-9_.-]*', name) and re.fullmatch('[0-9a-f]{64}', sha)
        for name, sha in it.items())}


def _check(description, path):
    """DataError unless these are the contents of a recognizer.json that can be used."""
    for name, good in _FIELDS.items():
        try:
            usable = good(description[name])
        except (LookupError, TypeError, ValueError, AttributeError):
            usable = False
        if not usable:
            raise DataError(f'cannot use {path}: no training with this program (format '
                            f'{FORMAT}) writes "{name}": {description.get(name)!r:.60}')
