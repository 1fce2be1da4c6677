"""Images of people or other classes: a folder with one sub-folder per class, or an .npz file.

No file is trusted: a file that is no valid image is named and left out, and nothing in an .npz file
is unpickled.
"""
import contextlib
import os
import warnings
from typing import NamedTuple

import numpy as np
from data import DataError, read_npz
from PIL import Image
from scipy.ndimage import affine_transform

# The formats that are read, whatever the name of a file. Pillow knows more, among them EPS: that is
# a program, which Pillow runs with Ghostscript.
_FORMATS = ('JPEG', 'PNG', 'PPM', 'BMP', 'GIF', 'TIFF', 'WEBP')
# The most pixels of an image. A larger one is a mistake, or an attack on the memory.
_LARGEST = 50000000

# The limits of augmentation, as shares of the height and width of an image.
_SHIFT, _ZOOM, _SQUEEZE, _SHEAR = 0.08, 0.15, 0.15, 0.1
_DEGREES = 12
# How much brighter one side may become than the other, in standard deviations of the pixels.
_LIGHT = 0.4
# The share of images in which a rectangle is covered, and its largest side as a share of the image.
_COVERED, _COVER = 0.5, 1 / 3


class Faces(NamedTuple):
    """Images, (N, 1, height, width), float32 with mean 0 and standard deviation 1; labels, (N,);
    the names of the classes.

    `numbers`, (N,), has the position of each image among the files of its class, counted from 1.
    """
    images: np.ndarray
    labels: np.ndarray
    names: list
    numbers: np.ndarray


def load(folder, size, say):
    """All images of a folder with one sub-folder per person, grey and scaled to `size`.

    Parameters
    ----------
    folder : str
    size : (int, int)
        Height and width.
    say : callable
        Called with a line about everything that is left out or changed.

    Returns
    -------
    Faces
        Labels number the people in the order of their names.

    Raises
    ------
    DataError
        The folder cannot be read.
    """
    images, labels, names, numbers, sizes = [], [], [], [], set()
    for name in listing(folder):
        path = os.path.join(folder, name)
        if not os.path.isdir(path):
            continue
        mine, of_mine = [], []
        for number, file in enumerate(listing(path), 1):
            try:
                original, pixels = _read(os.path.join(path, file), size)
            except Unreadable as error:
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
        The height and width to scale to; None leaves the images as they are.
    say : callable
        Called with a line about everything that is left out.

    Returns
    -------
    list of Faces
        Those of the training and of the test classes, which are different classes even if they have
        the same labels; or those of all classes, if the file does not divide them.

    Raises
    ------
    DataError
        The file cannot be read, or has something else in it.
    """
    arrays = read_npz(path)
    parts = ('train_', 'test_') if 'train_images' in arrays else ('',)
    missing = [part + kind for part in parts for kind in ('images', 'labels')
               if part + kind not in arrays]
    if missing:
        raise DataError('cannot read %s: it has no %s; it has %s'
                        % (path, ', '.join(missing), ', '.join(arrays) or 'nothing'))
    result = []
    for part in parts:
        images, labels = arrays[part + 'images'], arrays[part + 'labels']
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
    """Images with mean 0 and deviation 1, because brightness and contrast depend on the light."""
    mean = pixels.mean(axis=(-2, -1), keepdims=True)
    return (pixels - mean) / (pixels.std(axis=(-2, -1), keepdims=True) + 1)


def load_pairs(path, names):
    """The pairs of images in a file with the format of LFW's pairs.txt.

    A line is `name number number` for two images of one class, or `name number name number` for
    images of two classes. Numbers count the files of a class from 1. A line that has only whole
    numbers, such as the first one, is skipped.

    Parameters
    ----------
    path : str
    names : collection of str
        The classes of the data set.

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


class Unreadable(Exception):
    """A file that is no image, or not a valid one."""


def listing(folder):
    """The names in a folder, sorted, without hidden ones.

    Raises
    ------
    DataError
        The folder cannot be read.
    """
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith('.'))
    except OSError as error:
        raise DataError('cannot read %s: %s' % (folder, error.strerror)) from None


def grey(source):
    """A grey PIL.Image of the mode L, or of F if it had more than 8 bits.

    Parameters
    ----------
    source : str or io.BytesIO
        A path, or the content of a file.

    Raises
    ------
    Unreadable
        Says why.
    """
    # Opening a pipe would wait for its writer.
    if isinstance(source, str) and not os.path.isfile(source):
        raise Unreadable('no file')
    with _decoding():
        image = Image.open(source, formats=_FORMATS)
    with image:
        if image.width * image.height > _LARGEST:
            raise Unreadable('%d x %d pixels are more than %d'
                             % (image.width, image.height, _LARGEST))
        with _decoding():
            image.load()
            deep = image.mode == 'F' or image.mode.startswith('I')
            result = np.asarray(image, float) if deep else image.convert('L')
    return Image.fromarray(_scaled(result)) if deep else result


def _read(path, size):
    """(width and height of the file, pixels scaled to `size` and standardized)."""
    image = grey(path)
    pixels = np.asarray(image.resize(size[::-1], Image.BILINEAR), np.float32)
    return image.size, _standardized(pixels)


@contextlib.contextmanager
def _decoding():
    """Turns what Pillow raises into Unreadable: a broken file makes it raise nearly anything."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of odd metadata
            yield
    except Exception as error:
        reason = getattr(error, 'strerror', None)
        raise Unreadable(reason or 'no image that can be read as %s or %s'
                          % (', '.join(_FORMATS[:-1]), _FORMATS[-1])) from None


def _scaled(values):
    """Scale pixels of more than 8 bits, whose unit is unknown, so that their range is 0 to 255."""
    if not np.isfinite(values).all():
        raise Unreadable('pixels that are NaN or infinite')
    low, high = values.min(), values.max()
    return ((values - low) * (255 / ((high - low) or 1))).astype(np.float32)


def split(faces, unseen, seed):
    """Two Faces of different people: those to train on, and `unseen` others.

    The split depends on `seed` and the order of the names alone.
    """
    order = np.random.RandomState(seed).permutation(len(faces.names))
    return of_classes(faces, order[unseen:]), of_classes(faces, order[:unseen])


def of_classes(faces, classes):
    """The Faces of some classes, with labels that number them in the order of their names."""
    classes = np.sort(classes)
    mine = rows(faces, np.isin(faces.labels, classes))
    return mine._replace(labels=np.searchsorted(classes, mine.labels),
                         names=[faces.names[label] for label in classes])


def rows(faces, chosen):
    """Some images of Faces, with the labels and names of all."""
    return faces._replace(images=faces.images[chosen], labels=faces.labels[chosen],
                          numbers=faces.numbers[chosen])


def hold_out(faces, fewest, seed):
    """Two Faces of the same classes: the images to train on, and one image of each class that has
    `fewest` or more, to recognize."""
    random = np.random.RandomState(seed)
    held_out = np.zeros(len(faces.labels), bool)
    for label in range(len(faces.names)):
        mine = np.flatnonzero(faces.labels == label)
        if len(mine) >= fewest:
            held_out[random.choice(mine)] = True
    return rows(faces, ~held_out), rows(faces, held_out)


def augment(images, random, strength=1., drawn=False):
    """Change each image as another photo of it might be: moved, turned, squeezed, lit differently,
    mirrored, partly covered.

    Parameters
    ----------
    images : numpy.ndarray, (N, 1, height, width)
    random : numpy.random.RandomState
    strength : float
        From 0 to 1: multiplies the limits of all changes. 1 suits a training set of few people.
    drawn : bool
        Whether these are drawings, such as letters. They are not lit, mirrored or covered.

    Returns
    -------
    numpy.ndarray
        Has the same shape, standardized again.
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
