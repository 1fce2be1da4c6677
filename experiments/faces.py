"""Images of people, or of any other classes: a folder with a sub-folder a class, or an .npz file.

Files are data: one that is no image is named and left out, whatever it holds; of an .npz file
nothing is unpickled.
"""
import contextlib
import os
import warnings
import zipfile
import zlib
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
    """Images, (N, 1, height, width) float32 of mean 0 and deviation 1, labels, (N,), names.

    `numbers`, (N,), are those of the images among the files of their class, from 1 on.
    """
    images: np.ndarray
    labels: np.ndarray
    names: list
    numbers: np.ndarray


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
    images, labels, names, numbers, sizes = [], [], [], [], set()
    for name in _listing(folder):
        path = os.path.join(folder, name)
        if not os.path.isdir(path):
            continue
        mine, of_mine = [], []
        for number, file in enumerate(_listing(path), 1):
            try:
                original, pixels = _read(os.path.join(path, file), size)
            except _Unreadable as error:
                say('left out %s: %s' % (os.path.join(path, file), error))
                continue
            mine.append(pixels)
            of_mine.append(number)
            sizes.add(original)
        if len(mine) < 2:
            say('left out %s: verification needs 2 images of a person, found %d'
                % (path, len(mine)))
            continue
        images += mine
        numbers += of_mine
        labels += [len(names)] * len(mine)
        names.append(name)
    if len(sizes) > 1:
        say('the images have %d sizes, from %d x %d to %d x %d: all are scaled to %d x %d'
            % (len(sizes), *min(sizes), *max(sizes), size[1], size[0]))
    return Faces(np.array(images, np.float32).reshape(-1, 1, *size),
                 np.array(labels, int), names, np.array(numbers, int))


def load_npz(path, size, say):
    """The images of an .npz file: `train_images`, `train_labels`, `test_images` and `test_labels`.

    Or only `images` and `labels`. Images are bytes, (n, height, width), labels whole numbers.

    Parameters
    ----------
    path : str
    size : (int, int) or None
        Height and width to scale to; None: as they are.
    say : callable
        Called with a line about whatever is left out.

    Returns
    -------
    list of Faces
        Of the training and of the test classes, which may have the same numbers and are others
        all the same; or of all, where the file does not part them.

    Raises
    ------
    DataError
        When the file cannot be read or holds something else.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise DataError('cannot read %s: it is no file' % path)
    try:
        if not zipfile.is_zipfile(path):  # of which NumPy says that it is pickled
            raise ValueError('it is no .npz file, or a damaged one')
        with np.load(path, allow_pickle=False) as arrays:
            parts = ('train_', 'test_') if 'train_images' in arrays.files else ('',)
            missing = [part + kind for part in parts for kind in ('images', 'labels')
                       if part + kind not in arrays.files]
            if missing:
                raise ValueError('it has no %s; it has %s'
                                 % (', '.join(missing), ', '.join(arrays.files) or 'nothing'))
            loaded = [(part, arrays[part + 'images'], arrays[part + 'labels']) for part in parts]
    except OSError as error:
        raise DataError('cannot read %s: %s' % (path, error.strerror or error)) from None
    except (ValueError, EOFError, KeyError, MemoryError, NotImplementedError, zipfile.BadZipFile,
            zlib.error) as error:
        raise DataError('cannot read %s: %s' % (path, str(error).split('\n')[0])) from None
    result = []
    for part, images, labels in loaded:
        if images.dtype != np.uint8 or images.ndim != 3 or min(images.shape[1:]) < 1:
            raise DataError('%s: %simages must be bytes, (n, height, width), got %s of shape %s'
                            % (path, part, images.dtype, images.shape))
        if labels.shape != images.shape[:1] or labels.dtype.kind not in 'iu':
            raise DataError('%s: %slabels must be %d whole numbers, got %s of shape %s'
                            % (path, part, len(images), labels.dtype, labels.shape))
        names, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
        enough = counts >= 2
        if not enough.all():
            say('left out %d classes of %s: verification needs 2 images of a class'
                % ((~enough).sum(), part + 'images'))
        mine = enough[classes]
        if size is not None:
            images = np.stack([np.asarray(Image.fromarray(image).resize(size[::-1],
                                                                        Image.BILINEAR))
                               for image in images]) if len(images) else images
        pixels = images[mine].astype(np.float32)
        numbers = np.empty(len(labels), int)
        for name in range(len(names)):
            numbers[classes == name] = np.arange(1, counts[name] + 1)
        result.append(Faces(_standardized(pixels)[:, None],
                            (np.cumsum(enough) - 1)[classes[mine]],
                            [str(name) for name in names[enough]], numbers[mine]))
    return result


def _standardized(pixels):
    """Images of mean 0 and deviation 1: brightness and contrast are the lamp's."""
    mean = pixels.mean(axis=(-2, -1), keepdims=True)
    return (pixels - mean) / (pixels.std(axis=(-2, -1), keepdims=True) + 1)


def load_pairs(path, names):
    """The pairs of images that a file in the form of LFW's pairs.txt names.

    A line is `name number number`, two images of one class, or `name number name number`, images
    of two; numbers count the files of a class from 1 on. A line of whole numbers alone, such as
    the first, is a heading.

    Parameters
    ----------
    path : str
    names : collection of str
        The classes there are.

    Returns
    -------
    list of ((str, int), (str, int))

    Raises
    ------
    DataError
        Names the file and the line.
    """
    pairs = []
    try:
        with open(path, encoding='utf-8') as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise DataError('cannot read %s: %s' % (path, error.strerror)) from None
    except ValueError:
        raise DataError('cannot read %s: no text in UTF-8' % path) from None
    for number, line in enumerate(lines, 1):
        words = line.split('\t') if '\t' in line else line.split()
        if len(words) < 3 and all(word.isdigit() for word in words):
            continue
        try:
            if len(words) == 3:
                words.insert(2, words[0])
            first, one, second, other = words
            pair = (first, int(one)), (second, int(other))
        except ValueError:
            raise DataError('%s, line %d: expected "name number number" or "name number name '
                            'number", got %r' % (path, number, line[:80])) from None
        unknown = [name for name, _ in pair if name not in names]
        if unknown:
            raise DataError('%s, line %d: there is no class %r with 2 images or more'
                            % (path, number, unknown[0][:80]))
        pairs.append(pair)
    return pairs


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
    return original, _standardized(pixels)


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
    return of_classes(faces, order[unseen:]), of_classes(faces, order[:unseen])


def of_classes(faces, classes):
    """The Faces of some classes, labelled from 0 on in the order of their names."""
    classes = np.sort(classes)
    mine = rows(faces, np.isin(faces.labels, classes))
    return mine._replace(labels=np.searchsorted(classes, mine.labels),
                         names=[faces.names[label] for label in classes])


def rows(faces, chosen):
    """Some images of Faces, with the labels and names of all."""
    return faces._replace(images=faces.images[chosen], labels=faces.labels[chosen],
                          numbers=faces.numbers[chosen])


def hold_out(faces, fewest, seed):
    """Two Faces of the same classes: the images to train on, and one of each class with `fewest`
    or more, to recognize."""
    random = np.random.RandomState(seed)
    held_out = np.zeros(len(faces.labels), bool)
    for label in range(len(faces.names)):
        mine = np.flatnonzero(faces.labels == label)
        if len(mine) >= fewest:
            held_out[random.choice(mine)] = True
    return rows(faces, ~held_out), rows(faces, held_out)


def augment(images, random, strength=1., drawn=False):
    """Each image as if taken once more: moved, turned, squeezed, lit, mirrored, half hidden.

    Parameters
    ----------
    images : numpy.ndarray, (N, 1, height, width)
    random : numpy.random.RandomState
    strength : float
        The limits of all that, as a multiple of what suits few people; from 0 to 1.
    drawn : bool
        Whether these are drawings, such as letters: then neither lit, mirrored nor hidden.

    Returns
    -------
    numpy.ndarray
        Of the same shape, standardized again.
    """
    return np.stack([_again(image[0], random, strength, drawn) for image in images])[:, None]


def _again(image, random, strength, drawn):
    shape = np.array(image.shape)
    height, width = shape

    def within(limit, size=None):
        return strength * random.uniform(-limit, limit, size)

    angle = np.deg2rad(within(_DEGREES))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    skew = np.array([[1, within(_SHEAR)], [within(_SHEAR), 1 + within(_SQUEEZE)]])
    matrix = (1 + within(_ZOOM)) * turn @ skew
    middle = (shape - 1) / 2
    image = affine_transform(image, matrix, order=1, mode='nearest',
                             offset=middle - matrix @ middle + shape * within(_SHIFT, 2))
    if not drawn:
        if random.uniform() < 0.5:
            image = image[:, ::-1]
        image = image + (within(_LIGHT) * np.linspace(-1, 1, height)[:, None]
                         + within(_LIGHT) * np.linspace(-1, 1, width))
        if random.uniform() < strength * _COVERED:
            size = np.ceil(shape * _COVER * random.uniform(0.3, 1, 2)).astype(int)
            top, left = (random.randint(room + 1) for room in shape - size)
            image[top:top + size[0], left:left + size[1]] = image.mean()
    return ((image - image.mean()) / (image.std() + 1e-3)).astype(np.float32)
