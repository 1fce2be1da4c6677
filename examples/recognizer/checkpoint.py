"""Files that are complete or not there: checkpoints of a training, and OUT as one network.

This module needs NumPy only: recognize.py uses it, too.
"""


class CheckpointError(Exception):
    """A file that cannot be written, or is not what it has to be; one line for the user."""


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
    raise NotImplementedError


def write(path, writer):
    """Write a file so that `path` is the old one or the new one, never a part.

    Parameters
    ----------
    path : str
        A link is replaced, not followed.
    writer : bytes, str, or callable
        The content, or a function that is called with a binary file.
    """
    raise NotImplementedError


def digest(path):
    """The SHA-256 of a file (a path), or of bytes, as 64 hexadecimal digits."""
    raise NotImplementedError


def read_file(path, most=None):
    """The bytes of a regular file that is no link; CheckpointError if it has more than `most`."""
    raise NotImplementedError


def read_npz(content, most=2 ** 30):
    """{name: array} of the bytes of an .npz file; nothing is unpickled, and no header can ask for
    more memory than the file has data. CheckpointError if it is damaged."""
    raise NotImplementedError


def load_recognizer(out, names=('embedding.onnx',)):
    """recognizer.json of OUT as a dictionary, after all its fields were checked.

    `content` in it has the bytes of the files in `names`, whose digests were checked: use them
    instead of opening the files, which another training can replace meanwhile.

    Raises
    ------
    CheckpointError
    """
    raise NotImplementedError


def publish(out, files, description):
    """Make `files` and recognizer.json OUT's network; after a kill, OUT is the old or the new one.

    Parameters
    ----------
    out : str
    files : dict
        {name: bytes}. Files of an earlier network with other names are removed.
    description : dict
        recognizer.json without `format` and `files`, which are added.
    """
    raise NotImplementedError
