"""Images of people for verification: a folder with one sub-folder of images a person.

Files are data: one that is no image is named and left out, whatever it holds.
"""
import contextlib
import os
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.ndimage import affine_transform

from data import DataError

# What a file may be, whatever its name says. Pillow knows more formats, among them EPS: a program,
# which it gives to Ghostscript to run.
_FORMATS = ('JPEG', 'PNG', 'PPM', 'BMP', 'GIF', 'TIFF', 'WEBP')
# Of an image file; more would be an attack on the memory or a mistake.
_LARGEST = 50000000

# How far an image may be from the person's next one, as a share of the image's height and width.
_SHIFT, _ZOOM, _SQUEEZE, _SHEAR = 0.08, 0.15, 0.15, 0.1
_DEGREES = 12
# Standard deviations of an image's pixels by which one side may be brighter than the other.
_LIGHT = 0.4
# How often a rectangle is covered, and its largest side as a share of the image's.
_COVERED, _COVER = 0.5, 1 / 3


class Faces(NamedTuple):
    """Images, (N, 1, height, width) float32 of mean 0 and deviation 1, labels, (N,), names."""
    images: np.ndarray
    labels: np.ndarray
    names: list


def load(folder, size, say):
    """All images of a folder with a sub-folder a person, in grey and scaled to `size`.

    Parameters
    ----------
    folder : str
    size : (int, int)
        Height and width.
    say : callable
        Called with a line about whatever is left out or changed.

    Returns
    -------
    Faces
        Labels count people in the order of their names.

    Raises
    ------
    DataError
        When the folder cannot be read.
    """
    images, labels, names, sizes = [], [], [], set()
    for name in _listing(folder):
        path = os.path.join(folder, name)
        if not os.path.isdir(path):
            continue
        mine = []
        for file in _listing(path):
            try:
                original, pixels = _read(os.path.join(path, file), size)
            except _Unreadable as error:
                say('left out %s: %s' % (os.path.join(path, file), error))
                continue
            mine.append(pixels)
            sizes.add(original)
        if len(mine) < 2:
            say('left out %s: verification needs 2 images of a person, found %d'
                % (path, len(mine)))
            continue
        images += mine
        labels += [len(names)] * len(mine)
        names.append(name)
    if len(sizes) > 1:
        say('the images have %d sizes, from %d x %d to %d x %d: all are scaled to %d x %d'
            % (len(sizes), *min(sizes), *max(sizes), size[1], size[0]))
    return Faces(np.array(images, np.float32).reshape(-1, 1, *size),
                 np.array(labels, int), names)


class _Unreadable(Exception):
    """A file that gives no image."""


def _listing(folder):
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith('.'))
    except OSError as error:
        raise DataError('cannot read %s: %s' % (folder, error.strerror)) from None


def _read(path, size):
    """(width and height of the file, pixels scaled to `size` and standardized)."""
    if not os.path.isfile(path):  # opening a pipe would wait for whoever writes to it
        raise _Unreadable('no file')
    with _decoding():
        image = Image.open(path, formats=_FORMATS)
    with image:
        if image.width * image.height > _LARGEST:
            raise _Unreadable('%d x %d pixels are more than %d'
                              % (image.width, image.height, _LARGEST))
        with _decoding():
            image.load()
            deep = image.mode == 'F' or image.mode.startswith('I')
            grey = np.asarray(image, float) if deep else image.convert('L')
        original = image.size
    if deep:
        grey = Image.fromarray(_scaled(grey))
    pixels = np.asarray(grey.resize(size[::-1], Image.BILINEAR), np.float32)
    # Brightness and contrast are the lamp's, not the person's.
    return original, (pixels - pixels.mean()) / (pixels.std() + 1)


@contextlib.contextmanager
def _decoding():
    """For Pillow's own work alone: a broken file makes it raise nearly anything."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of odd metadata
            yield
    except Exception as error:  # pylint: disable=broad-except
        reason = getattr(error, 'strerror', None)
        raise _Unreadable(reason or 'no image that can be read as %s or %s'
                          % (', '.join(_FORMATS[:-1]), _FORMATS[-1])) from None


def _scaled(values):
    """Pixels of more than 8 bits, which may mean anything, so that their own range is 0 to 255."""
    if not np.isfinite(values).all():
        raise _Unreadable('pixels that are NaN or infinite')
    low, high = values.min(), values.max()
    return ((values - low) * (255 / ((high - low) or 1))).astype(np.float32)


def split(faces, unseen, seed):
    """Two Faces of different people: those to train on, and `unseen` others.

    Which is which follows from `seed` and the order of the names alone.
    """
    order = np.random.RandomState(seed).permutation(len(faces.names))
    return _of(faces, order[unseen:]), _of(faces, order[:unseen])


def _of(faces, people):
    """The Faces of some people, labelled from 0 on in the order of their names."""
    people = np.sort(people)
    mine = np.isin(faces.labels, people)
    return Faces(faces.images[mine], np.searchsorted(people, faces.labels[mine]),
                 [faces.names[person] for person in people])


def augment(images, random):
    """Each image as if taken once more: moved, turned, squeezed, lit, mirrored, half hidden.

    Parameters
    ----------
    images : numpy.ndarray, (N, 1, height, width)
    random : numpy.random.RandomState

    Returns
    -------
    numpy.ndarray
        Of the same shape, standardized again.
    """
    return np.stack([_again(image[0], random) for image in images])[:, None]


def _again(image, random):
    shape = np.array(image.shape)
    height, width = shape

    def within(limit, size=None):
        return random.uniform(-limit, limit, size)

    angle = np.deg2rad(within(_DEGREES))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    skew = np.array([[1, within(_SHEAR)], [within(_SHEAR), 1 + within(_SQUEEZE)]])
    matrix = (1 + within(_ZOOM)) * turn @ skew
    middle = (shape - 1) / 2
    image = affine_transform(image, matrix, order=1, mode='nearest',
                             offset=middle - matrix @ middle + shape * within(_SHIFT, 2))
    if random.uniform() < 0.5:
        image = image[:, ::-1]
    image = image + (within(_LIGHT) * np.linspace(-1, 1, height)[:, None]
                     + within(_LIGHT) * np.linspace(-1, 1, width))
    if random.uniform() < _COVERED:
        size = np.ceil(shape * _COVER * random.uniform(0.3, 1, 2)).astype(int)
        top, left = (random.randint(room + 1) for room in shape - size)
        image[top:top + size[0], left:left + size[1]] = image.mean()
    return ((image - image.mean()) / (image.std() + 1e-3)).astype(np.float32)
