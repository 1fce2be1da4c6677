"""Files that are complete or not there: checkpoints of a training, and OUT as one network.

A file is written under another name and renamed when it is on the disk. No link in OUT is followed,
and nothing is unpickled. This module needs NumPy only: recognize.py uses it, too.
"""
import contextlib
import hashlib
import io
import json
import math
import os
import re
import socket
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
_STATE = re.compile(r'epoch-(\d{4,})\.npz')
# More than so many bytes that came out of a hundredth is no data, but an attack on the memory.
_LARGE, _RATIO = 2 ** 28, 100
_NOFOLLOW = getattr(os, 'O_NOFOLLOW', 0)


class CheckpointError(Exception):
    """A file that cannot be written, or is not what it has to be; one line for the user."""


# -- single files


def write(path, writer):
    """Write a file so that `path` is the old one or the new one, never a part.

    Parameters
    ----------
    path : str
        A link is replaced, not followed.
    writer : bytes, str, or callable
        The content, or a function that is called with a binary file.
    """
    folder, name = os.path.split(path)
    unfinished = os.path.join(folder, f'.{name}.{os.getpid()}.unfinished')
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unfinished)
        try:
            with open(unfinished, 'xb') as file:
                if callable(writer):
                    writer(file)
                else:
                    file.write(writer.encode() if isinstance(writer, str) else writer)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unfinished)
        _sync(folder)
    except OSError as error:
        raise CheckpointError(f'cannot write {path}: {error.strerror or error}') from None


def _sync(folder):
    """Have a folder's names on the disk."""
    if os.name != 'nt':
        handle = os.open(folder or '.', os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_file(path, most=None):
    """The bytes of a regular file that is no link; CheckpointError if it has more than `most`."""
    try:
        # A pipe would wait for its writer without O_NONBLOCK.
        handle = os.open(path, os.O_RDONLY | _NOFOLLOW | getattr(os, 'O_NONBLOCK', 0)
                         | getattr(os, 'O_BINARY', 0))
        with open(handle, 'rb') as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise CheckpointError(f'cannot read {path}: it is no file')
            if most is not None and found.st_size > most:
                raise CheckpointError(f'cannot read {path}: its {found.st_size} bytes are more '
                                      f'than the {most} that such a file can have')
            return file.read()
    except OSError as error:
        link = os.path.islink(path)
        raise CheckpointError(f'cannot read {path}: '
                              f'{"it is a link" if link else error.strerror}') from None


def digest(path):
    """The SHA-256 of a file (a path), or of bytes, as 64 hexadecimal digits."""
    content = path if isinstance(path, bytes) else read_file(path)
    return hashlib.sha256(content).hexdigest()


def make_folder(out, *names):
    """The path of a folder below OUT, which is made if it is not there; it must be no link."""
    path = out
    try:
        os.makedirs(out, exist_ok=True)
        for name in names:
            path = os.path.join(path, name)
            with contextlib.suppress(FileExistsError):
                os.mkdir(path)
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise CheckpointError(f'cannot write to {path}: it is no folder, or a link')
    except OSError as error:
        raise CheckpointError(f'cannot write to {path}: {error.strerror}') from None
    return path


def json_object(content, path):
    """The dictionary in a JSON file; NaN and infinity are no JSON."""
    def refuse(name):
        raise ValueError(f'{name} is no number')

    try:
        result = json.loads(content.decode(), parse_constant=refuse)
        if not isinstance(result, dict):
            raise ValueError('it is no object')
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f'cannot read {path}: {error}') from None
    return result


# -- arrays


class Member:
    """An array in an .npz file: its `shape` and `dtype`, known before it is read."""

    def __init__(self, archive, info):
        self._archive, self._info = archive, info
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f'{info.filename} is compressed in an unusual way')
        if info.file_size > max(_LARGE, _RATIO * info.compress_size):
            raise ValueError(f'{info.filename} would take {info.file_size} bytes of memory, out of '
                             'proportion to the file')
        with archive.open(info) as file:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError(f'{info.filename} is no array of numbers')
            self.shape, self._fortran, self.dtype = np.lib.format.read_array_header_1_0(file)
            self._start = file.tell()
        if self.dtype.kind not in 'biufUS' or self.dtype.itemsize == 0:
            raise ValueError(f'{info.filename} has objects in it, not numbers')
        if math.prod(self.shape) * self.dtype.itemsize + self._start != info.file_size:
            raise ValueError(f'the size of {info.filename} is not the one in its header')

    def items(self):
        """Yield the array row by row."""
        if self._fortran and len(self.shape) > 1:
            yield from self.read()
            return
        count = math.prod(self.shape[1:])
        with self._archive.open(self._info) as file:
            file.read(self._start)
            for _ in range(self.shape[0]):
                yield np.frombuffer(file.read(count * self.dtype.itemsize),
                                    self.dtype).reshape(self.shape[1:])
            file.read(1)    # at the end, the checksum is compared

    def read(self):
        """The array."""
        with self._archive.open(self._info) as file:
            file.read(self._start)
            content = file.read(self._info.file_size - self._start)
            file.read(1)
        return np.frombuffer(content, self.dtype).reshape(self.shape,
                                                          order='F' if self._fortran else 'C')


@contextlib.contextmanager
def open_npz(file, path):
    """A context with the {name: Member} of an .npz file; `path` is what an error calls it."""
    try:
        with zipfile.ZipFile(file) as archive:
            yield {info.filename[:-len('.npy')]: Member(archive, info)
                   for info in archive.infolist() if info.filename.endswith('.npy')}
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f'cannot read {path}: {error.strerror or error}') from None
    # A damaged file makes zipfile and NumPy raise nearly anything.
    except Exception as error:
        reason = str(error).split('\n')[0][:200] or type(error).__name__
        raise CheckpointError(f'cannot read {path}: {reason}') from None


def read_npz(content, path='the .npz file'):
    """{name: array} of the bytes of an .npz file; nothing is unpickled, and no header can ask for
    more memory than the file has data. CheckpointError if it is damaged, or if its data are out of
    proportion to the file."""
    with open_npz(io.BytesIO(content), path) as members:
        size = sum(member.dtype.itemsize * math.prod(member.shape) for member in members.values())
        if size > max(_LARGE, _RATIO * len(content)):
            raise ValueError(f'it would take {size} bytes of memory, out of proportion to the file')
        return {name: member.read() for name, member in members.items()}


def npz(**arrays):
    """The bytes of an .npz file with these arrays."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


# -- one program at a time


@contextlib.contextmanager
def lock(out, what, wait=0.):
    """A context in which no other program changes OUT, which is made if necessary.

    Parameters
    ----------
    out : str
    what : str
        What this program does, such as 'enrol': the one that waits reads it.
    wait : float
        So many seconds to wait for the other one, which a line on stderr says; then, or at once
        with 0, CheckpointError says who it is.
    """
    make_folder(out)
    path = os.path.join(out, '.lock')
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | _NOFOLLOW | getattr(os, 'O_NONBLOCK', 0),
                         0o666)
    except OSError as error:
        raise CheckpointError(f'cannot write {path}: '
                              f'{"it is a link" if os.path.islink(path) else error.strerror}'
                              ) from None
    with open(handle, 'r+b') as file:
        _wait(file, out, wait)
        with contextlib.suppress(OSError):      # a full disk is said where something is lost
            file.truncate(0)
            file.write(f'{what}, process {os.getpid()} on {socket.gethostname()}'.encode())
            file.flush()
        for name in filter(_UNFINISHED.fullmatch, os.listdir(out)):     # of programs that ended
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(out, name))
        yield


def _wait(file, out, seconds):
    if not fcntl:
        return
    end, said = time.monotonic() + seconds, False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            file.seek(0)
            other = ascii(file.read(200).decode(errors='replace'))[1:-1] or 'another program'
        except OSError as error:
            print(f'cannot lock {out} ({error.strerror}): start nothing else in it',
                  file=sys.stderr)
            return
        if time.monotonic() >= end:
            raise CheckpointError(f'{out} is in use by {other}: wait until it has ended')
        if not said:
            print(f'waiting: {out} is in use by {other}', file=sys.stderr, flush=True)
            said = True
        time.sleep(0.1)


# -- states of a training, a file each


def save_state(folder, epoch, arrays, state):
    """Write the state after an epoch, {name: array} and what JSON can hold; the last two stay."""
    text = np.frombuffer(json.dumps(state).encode(), np.uint8)
    write(os.path.join(folder, f'epoch-{epoch:04d}.npz'),
          lambda file: np.savez(file, state=text, **arrays))
    for number, path in states(folder)[:-2]:
        if number < epoch:
            os.unlink(path)


def states(folder):
    """[(epoch, path)] of the states in a folder, oldest first."""
    found = (_STATE.fullmatch(name) for name in os.listdir(folder))
    return sorted((int(match.group(1)), os.path.join(folder, match.group()))
                  for match in found if match)


def load_state(folder, say):
    """(epoch, arrays, state) of the last state that is whole, or None if there is none.

    `say` is called with a line about each one that is damaged and passed over.
    """
    found = states(folder)
    for epoch, path in reversed(found):
        try:
            arrays = read_npz(read_file(path), path=path)
            state = json_object(arrays.pop('state').tobytes(), path)
            return epoch, arrays, state
        except (CheckpointError, KeyError) as error:
            reason = error if isinstance(error, CheckpointError) else f'{path} has no state'
            say(f'passed over a damaged checkpoint: {reason}')
    if found:
        raise CheckpointError(f'no checkpoint in {folder} can be read: take another --output-dir')
    return None


# -- OUT as one network


def publish(out, files, description):
    """Make `files` and recognizer.json OUT's network; after a kill, OUT is the old or the new one.

    The files are written as NAME.new, recognizer.json then says their digests and so makes them
    OUT's network, and they get their names; after a kill, `load_recognizer` reads NAME.new.

    Parameters
    ----------
    out : str
    files : dict
        {name: bytes}. Files of an earlier network with other names are removed.
    description : dict
        recognizer.json without `format` and `files`, which are added.
    """
    description = {'format': FORMAT, **description,
                   'files': {name: digest(bytes(content)) for name, content in files.items()}}
    text = json.dumps(description, indent=2, allow_nan=False) + '\n'
    _check(json.loads(text))
    before = {}
    with contextlib.suppress(CheckpointError):
        before = _described(out)['files']
        _rename(out, before)        # finish what a kill interrupted
    for name, content in files.items():
        write(os.path.join(out, f'{name}.new'), content)
    write(os.path.join(out, DESCRIPTION), text)
    try:
        _rename(out, description['files'])
        for name in set(before) - set(files):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(out, name))
        _sync(out)
    except OSError as error:
        raise CheckpointError(f'cannot write to {out}: {error.strerror}') from None


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

    Raises
    ------
    CheckpointError
    """
    for attempt in range(5):
        if attempt:
            time.sleep(0.05)        # another program may just be publishing
        description = _described(out)
        try:
            description['content'] = {name: _content(out, name, description['files'])
                                      for name in names}
            return description
        except CheckpointError as error:
            reason = error
    raise reason


def _content(out, name, digests):
    path = os.path.join(out, name)
    if name not in digests:
        raise CheckpointError(f'{os.path.join(out, DESCRIPTION)} names no {name}: train again, '
                              "with all of pip install 'center_loss_op[examples,onnx]'")
    for candidate in path, f'{path}.new':
        if os.path.lexists(candidate):
            content = read_file(candidate)
            if digest(content) == digests[name]:
                return content
    raise CheckpointError(f'{path} is missing, or not the file that {DESCRIPTION} describes: '
                          'restore it, or train again')


def _described(out):
    path = os.path.join(out, DESCRIPTION)
    if not os.path.lexists(path):
        raise CheckpointError(f'{out} has no {DESCRIPTION}: OUT must be the --output-dir of '
                              'train.py, or of recognize.py import')
    description = json_object(read_file(path, 2 ** 24), path)
    try:
        _check(description)
    except ValueError as error:
        raise CheckpointError(f'cannot use {path}: {error}') from None
    return description


def _check(description):
    """ValueError unless these are the contents of a recognizer.json that can be used."""
    def need(good, what):
        if not good:
            raise ValueError(what)

    def number(value):
        return isinstance(value, (int, float)) and not isinstance(value, bool) \
            and abs(value) < 1e30

    def whole(value, low, high):
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    def kind(name, expected):
        need(isinstance(description.get(name), expected), f'its "{name}" is missing or no '
             f'{expected.__name__}')
        return description[name]

    need(description.get('format') == FORMAT,
         f'its "format" is {description.get("format")!r:.40}, this program reads {FORMAT}: '
         'train again')
    size = kind('size', list)
    need(len(size) == 2 and all(whole(side, *SIDES) for side in size),
         f'its "size" must be two numbers from {SIDES[0]} to {SIDES[1]}')
    channels = description.get('channels')
    need(whole(channels, 1, 3) and channels != 2, 'its "channels" must be 1 or 3')
    for name in 'mean', 'std':
        values = kind(name, list)
        need(len(values) in (1, channels) and all(map(number, values))
             and (name == 'mean' or min(values) >= 1e-9),
             f'its "{name}" must be a number per channel' + ', from 1e-9 on' * (name == 'std'))
    need(whole(description.get('features'), *FEATURES),
         f'its "features" must be a number from {FEATURES[0]} to {FEATURES[1]}')
    need(description.get('distance') in ('cosine', 'euclidean'),
         'its "distance" must be "cosine" or "euclidean"')
    thresholds = kind('thresholds', dict)
    for name in 'pairs', 'strangers':
        shares = thresholds.get(name)
        need(isinstance(shares, dict), f'its "thresholds" have no "{name}"')
        for share, value in shares.items():
            points = [[1, value]] if name == 'pairs' else value
            need(re.fullmatch(r'0?\.\d+|1(\.0)?|\d+(\.\d+)?e-\d+', share) and 0 < float(share) <= 1
                 and isinstance(points, list) and all(
                     isinstance(point, list) and len(point) == 2 and whole(point[0], 1, 10 ** 9)
                     and (point[1] is None or number(point[1])) for point in points),
                 f'its thresholds of "{name}" for {share!r:.40} are not as they have to be')
    for name, expected in (('network', str), ('row', dict), ('classes', list), ('files', dict)):
        kind(name, expected)
    need(all(isinstance(name, str) for name in description['classes']),
         'its "classes" must be names')
    need(all(re.fullmatch(r'[A-Za-z0-9_-][A-Za-z0-9_.-]*', name)
             and isinstance(value, str) and re.fullmatch('[0-9a-f]{64}', value)
             for name, value in description['files'].items()),
         'its "files" must be names with their SHA-256')
