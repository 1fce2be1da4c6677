"""Digits: those bundled with scikit-learn, or the files of MNIST. And how .npz files are read.

No file is trusted: the sizes in a header are compared with the size of the file before memory is
allocated, and nothing is unpickled.
"""
import gzip
import os
import struct
import zipfile
import zlib
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

CLASSES = 10
DATASETS = ('digits', 'mnist')

_UNSIGNED_BYTE = 0x08
# Deflate cannot compress data by more than this factor, so a compressed file has a limit, too.
_LARGEST_RATIO = 1032
_CHUNK = 1 << 20
_VALIDATION_SEED = 12345


class DataError(Exception):
    """A data set that is missing, or not in its format."""


class Split(NamedTuple):
    """Images, (N, 1, height, width) float32 from 0 to 1, and labels, (N,) float32."""
    images: np.ndarray
    labels: np.ndarray


def load(dataset, data_dir=None, validate=False):
    """The training and the test split of 'digits' or of 'mnist' in `data_dir`.

    With `validate` both are parts of the training split, always the same ones: five sixths to train
    on, and one sixth in place of the test split, to choose the recipe with.

    Raises
    ------
    DataError
        A file is missing or corrupt, or a folder is given that would not be read.
    """
    if dataset != 'mnist' and data_dir is not None:
        raise DataError('--data-dir is for --dataset mnist, the digits are bundled with '
                        'scikit-learn: give --dataset mnist as well, or leave --data-dir out')
    training, test = _mnist(data_dir) if dataset == 'mnist' else _digits()
    if not validate:
        return training, test
    order = np.random.RandomState(_VALIDATION_SEED).permutation(len(training.labels))
    held_out = len(order) // 6
    return tuple(Split(training.images[rows], training.labels[rows])
                 for rows in (order[held_out:], order[:held_out]))


def batches(split, batch_size, seed, epoch, start=0, shift=0):
    """The batches of an epoch from number `start` on, as (images, labels) in NumPy.

    Each image is moved by up to `shift` pixels, differently in every epoch. Order and moves depend
    on `seed` and `epoch` alone, so that a resumed run continues with the same batches. Images that
    do not fill a batch are left out of the epoch.
    """
    random = np.random.RandomState((seed, epoch))
    order = random.permutation(len(split.labels))
    moves = random.randint(-shift, shift + 1, (len(order), 2))
    for batch in range(start, len(order) // batch_size):
        rows = order[batch * batch_size:(batch + 1) * batch_size]
        yield _moved(split.images[rows], moves[rows], shift), split.labels[rows]


def _moved(images, moves, most):
    """Images, (N, 1, height, width), moved by (down, right) pixels, at most `most`, over black."""
    if not most:
        return images
    height, width = images.shape[2:]
    padded = np.pad(images, ((0, 0), (0, 0), (most, most), (most, most)))
    result = np.empty_like(images)
    for image, source, (down, right) in zip(result, padded, moves):
        top, left = most - down, most - right
        image[:] = source[:, top:top + height, left:left + width]
    return result


def _digits():
    """1,797 digits of 8 x 8 pixels, a fixed fifth of every class for the test."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    parts = train_test_split(images, labels.astype(np.float32), test_size=0.2, random_state=0,
                             stratify=labels)
    return Split(parts[0], parts[2]), Split(parts[1], parts[3])


def _mnist(folder):
    """60,000 and 10,000 digits of 28 x 28 pixels, from the four files of the data set."""
    if folder is None:
        raise DataError('MNIST is read from files: give their folder with --data-dir')
    splits = []
    for part in 'train', 't10k':
        image_file, images = _read(folder, part + '-images-idx3-ubyte', (28, 28))
        label_file, labels = _read(folder, part + '-labels-idx1-ubyte', ())
        if len(images) != len(labels):
            raise DataError('%s has %d images, but %s has %d labels'
                            % (image_file, len(images), label_file, len(labels)))
        if len(labels) and labels.max() >= CLASSES:
            raise DataError('%s is corrupt: label %d, but digits go from 0 to 9'
                            % (label_file, labels.max()))
        classes = len(np.unique(labels))
        if classes < 2:  # the distances between classes would be none
            raise DataError('%s has %d labels of %d classes, at least 2 classes are needed'
                            % (label_file, len(labels), classes))
        splits.append(Split((images / np.float32(255)).reshape(-1, 1, 28, 28),
                            labels.astype(np.float32)))
    return tuple(splits)


def _read(folder, name, item_shape):
    """(path, array) of `name` or `name`.gz in `folder`."""
    for path in os.path.join(folder, name), os.path.join(folder, name + '.gz'):
        if os.path.exists(path):
            return path, read_idx(path, item_shape)
    raise DataError('%s not found in %s, neither as it is nor as .gz' % (name, folder))


def read_idx(path, item_shape):
    """The unsigned bytes of an idx file, gzipped when its name ends in .gz.

    Parameters
    ----------
    path : str
    item_shape : tuple of int
        The shape that every item of the file must have: (28, 28) for images, () for labels.

    Returns
    -------
    numpy.ndarray
        uint8, (number of items,) + item_shape.

    Raises
    ------
    DataError
        Names the file and what is wrong with it.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        # A folder, or a pipe: opening a pipe would wait for its writer.
        raise DataError('cannot read %s: it is no file' % path)
    compressed = path.endswith('.gz')
    try:
        room = os.path.getsize(path) * (_LARGEST_RATIO if compressed else 1)
        with gzip.open(path) if compressed else open(path, 'rb') as file:
            shape = _read_header(path, file, item_shape)
            size = int(np.prod(shape, dtype=object))
            if size > room:
                raise DataError('%s is corrupt: its header promises %d bytes of data, more than '
                                'the file can hold' % (path, size))
            content = bytearray()
            # One byte beyond the end, so that gzip checks its checksum and nothing is left over.
            while len(content) <= size:
                chunk = file.read(min(_CHUNK, size + 1 - len(content)))
                if not chunk:
                    break
                content += chunk
    except OSError as error:
        if error.errno is None:  # what gzip says of the content
            raise DataError('%s is corrupt: %s' % (path, error)) from None
        raise DataError('cannot read %s: %s' % (path, error.strerror)) from None
    except (EOFError, zlib.error) as error:
        raise DataError('%s is corrupt: %s' % (path, error)) from None
    if len(content) != size:
        raise DataError('%s is corrupt: its header promises %d bytes of data, it has %s'
                        % (path, size, 'more' if len(content) > size else len(content)))
    return np.frombuffer(content, np.uint8).reshape(shape)


def _read_header(path, file, item_shape):
    dimensions = 1 + len(item_shape)
    magic = bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    header = file.read(4 + 4 * dimensions)
    if header[:4] != magic:
        raise DataError('%s is corrupt: an idx file of %d-dimensional bytes begins with %s, '
                        'this one with %s'
                        % (path, dimensions, magic.hex(), header[:4].hex() or 'nothing'))
    if len(header) < 4 + 4 * dimensions:
        raise DataError('%s is corrupt: it ends within its header' % path)
    shape = struct.unpack('>%dI' % dimensions, header[4:])
    if shape[1:] != item_shape:
        raise DataError('%s is corrupt: its items should have shape %s, its header says %s'
                        % (path, item_shape, shape[1:]))
    return shape


def read_npz(path):
    """The arrays of an .npz file, {name: numpy.ndarray}.

    Raises
    ------
    DataError
        Names the file and what is wrong with it.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise DataError('cannot read %s: it is no file' % path)
    try:
        if not zipfile.is_zipfile(path):  # NumPy would say that it is pickled
            raise ValueError('it is no .npz file, or a damaged one')
        with np.load(path, allow_pickle=False) as arrays:
            # NumPy itself reads only as far as the header of an array says.
            if arrays.zip.testzip() is not None:
                raise ValueError('its checksums are wrong')
            return dict(arrays)
    except OSError as error:
        reason = error.strerror or error
    # A damaged file makes zipfile and NumPy raise nearly anything.
    except Exception as error:
        reason = str(error).split('\n')[0] or type(error).__name__
    raise DataError('cannot read %s: %s' % (path, reason))
