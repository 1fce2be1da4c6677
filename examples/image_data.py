"""Images by class, for train_images.py: where they are, which are damaged, how they are varied.

Images are read when they are needed, by worker processes, so that a data set can be larger than
the memory.
"""
import io
import os
import pickle
import random
import re
import time
import zipfile

import mxnet as mx
import numpy as np
from mxnet import gluon
from mxnet.gluon.data.vision import transforms
from PIL import Image
from recognize import FORMATS, UnreadableImage, image_files, load_image
from tqdm import tqdm

# Seconds of processor time that this process had spent when its last batch was ready.
_spent = 0.
# The first bytes of every record in a RecordIO file.
_MAGIC = b'\x0a\x23\xd7\xce'


class DataError(Exception):
    """Data that cannot be used, as one line for the user."""


class Images:
    """Images, one file each, and their classes.

    Attributes
    ----------
    files : list
        Of paths, of bytes, or of arrays (height, width) or (height, width, 3).
    labels : numpy.ndarray, (N,)
    names : list of str
        Of the classes, by label.
    own_held_out : numpy.ndarray or None
        The labels that the data set itself sets apart for the test.
    """

    def __init__(self, files, labels, names, own_held_out=None):
        self.files, self.labels, self.names = files, np.asarray(labels, int), names
        self.own_held_out = own_held_out

    def __len__(self):
        return len(self.files)

    def open(self, row):
        """The path of an image, or a binary file with its content."""
        file = self.files[row]
        if isinstance(file, np.ndarray):    # as PGM or PPM
            kind = b'P5' if file.ndim == 2 else b'P6'
            file = b'%s %d %d 255\n' % (kind, file.shape[1], file.shape[0]) + file.tobytes()
        return io.BytesIO(file) if isinstance(file, bytes) else file

    def describe(self, row):
        """What to call an image in a message."""
        file = self.files[row]
        return file if isinstance(file, str) else f'image {row} of {self.names[self.labels[row]]}'

    def pixels(self, row, shape):
        """An image as (channels, height, width) bytes of this shape."""
        try:
            return load_image(self.open(row), shape)
        except UnreadableImage as error:    # it could be read before
            raise DataError(f'cannot read {self.describe(row)}: {error}') from None

    def keep(self, rows):
        """The same with some of the images."""
        return Images([self.files[row] for row in rows], self.labels[rows], self.names,
                      self.own_held_out)


class Records(Images):
    """Images in a RecordIO file; `files` are the keys of its index."""

    def __init__(self, path, files, labels, names):
        super().__init__(files, labels, names)
        self.path = path
        self.record = mx.recordio.MXIndexedRecordIO(os.path.splitext(path)[0] + '.idx', path, 'r')

    def open(self, row):
        return io.BytesIO(mx.recordio.unpack(self.record.read_idx(self.files[row]))[1])

    def describe(self, row):
        return f'record {self.files[row]} of {self.path}'

    def keep(self, rows):
        return Records(self.path, [self.files[row] for row in rows], self.labels[rows], self.names)


def load(path):
    """The Images of a folder with one sub-folder per class, of a .rec file, or of an .npz file.

    Raises
    ------
    DataError
    """
    try:
        if os.path.isdir(path):
            return _folder(path)
        with open(path, 'rb') as file:
            start = file.read(4)
    except OSError as error:
        raise DataError(f'cannot read {error.filename or path}: {error.strerror}') from None
    if path.endswith('.rec'):
        return _records(path, start)
    if path.endswith('.npz'):
        return _arrays(path)
    raise DataError(f'{path} is neither a folder nor a .rec or an .npz file')


def _folder(path):
    names = sorted(entry.name for entry in os.scandir(path)
                   if entry.is_dir() and not entry.name.startswith('.'))
    if not names:
        raise DataError(f'{path} has no sub-folders: it needs one per class')
    files, labels = [], []
    for label, name in enumerate(names):
        mine = image_files(os.path.join(path, name))
        files += mine
        labels += [label] * len(mine)
    if not files:
        raise DataError(f'no sub-folder of {path} has images')
    return Images(files, labels, names)


def _records(path, start):
    index = os.path.splitext(path)[0] + '.idx'
    if start != _MAGIC:
        raise DataError(f'{path} is no RecordIO file')
    if not os.path.exists(index):
        raise DataError(f'{index} is missing: python -m mxnet.tools.im2rec writes it with the .rec')
    keys, classes = [], []
    try:
        record = mx.recordio.MXIndexedRecordIO(index, path, 'r')
        header, content = mx.recordio.unpack(record.read_idx(record.keys[0]))
        if header.flag and not content:
            # insightface: the first record says which records are images and which are classes,
            # and the record of a class says which images are its own.
            first, end = (int(number) for number in header.label[:2])
            for number in range(first, end):
                mine = range(*(int(limit) for limit in mx.recordio.unpack(
                    record.read_idx(number))[0].label[:2]))
                keys += mine
                classes += [number - first] * len(mine)
        else:
            for key in tqdm(record.keys, 'reading labels', disable=None, leave=False):
                header, _ = mx.recordio.unpack(record.read_idx(key))
                keys.append(key)
                classes.append(int(np.ravel(header.label)[0]))
    except Exception as error:
        # MXNet and struct raise many things for a damaged file.
        raise DataError(f'cannot read {path} by {index}: '
                        f'{(str(error) or type(error).__name__).splitlines()[0]}') from None
    present, labels = np.unique(classes, return_inverse=True)
    return Records(path, keys, labels, [str(number) for number in present])


def _arrays(path):
    try:
        with np.load(path, allow_pickle=False) as arrays:
            parts = ('train_', 'test_') if 'train_images' in arrays.files else ('',)
            loaded = [(part, arrays[f'{part}images'], arrays[f'{part}labels']) for part in parts]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f'cannot read {path}: {str(error).splitlines()[0]}') from None
    files, labels, names, own_held_out = [], [], [], None
    for part, images, of_part in loaded:
        if (images.dtype != np.uint8 or images.shape[3:] not in ((), (3,)) or images.ndim < 3
                or of_part.shape != images.shape[:1]):
            raise DataError(f'{path}: {part}images must be bytes, (n, height, width) or (n, height,'
                            f' width, 3), and {part}labels n numbers; got {images.dtype} '
                            f'{images.shape} and {of_part.dtype} {of_part.shape}')
        present, mine = np.unique(of_part, return_inverse=True)
        if part == 'test_':
            own_held_out = np.arange(len(present)) + len(names)
        files += list(images)
        labels.append(mine + len(names))
        names += [f'{part}{name}' for name in present]
    return Images(files, np.concatenate(labels), names, own_held_out)


class _Checked(gluon.data.Dataset):
    """For each image: what is wrong with it, or None; its width, its height, whether it is grey."""

    def __init__(self, images):
        self._images = images

    def __len__(self):
        return len(self._images)

    def __getitem__(self, row):
        try:
            file = self._images.open(row)
            load_image(file, (1, 8, 8))
            if not isinstance(file, str):
                file.seek(0)
            with Image.open(file, formats=FORMATS) as image:
                turned = image.getexif().get(0x0112, 1) > 4     # by a quarter, says the camera
                width, height = image.size[::-1] if turned else image.size
                return None, width, height, image.mode in ('1', 'L', 'LA') or image.mode[0] in 'IF'
        except UnreadableImage as error:
            return str(error), 0, 0, True
        except Exception as error:
            return f'no record of an image: {error}', 0, 0, True


def read_all(images, readers, say):
    """Read every image once, to find those that are damaged.

    Parameters
    ----------
    images : Images
    readers : int
        Processes that read.
    say : callable
        Called with a line about each image that cannot be read.

    Returns
    -------
    good, widths, heights, grey : numpy.ndarray, (N,)
    """
    good, sizes = [], []
    loader = gluon.data.DataLoader(_Checked(images), 64, num_workers=readers, batchify_fn=list)
    for batch in tqdm(loader, 'checking images', unit=' batches', disable=None, leave=False):
        for reason, *size_and_grey in batch:
            if reason:
                say(f'left out {images.describe(len(good))}: {reason}')
            good.append(not reason)
            sizes.append(np.array(size_and_grey, 'int32'))
    widths, heights, grey = np.array(sizes).T
    return np.array(good), widths, heights, grey == 1


def check(images, readers, say):
    """Leave out images that cannot be read, and classes that have only one that can.

    Parameters as for `read_all`.

    Returns
    -------
    (Images, (int, int, int))
        The others; 1 for grey or 3 for colour, and the medians of height and width.

    Raises
    ------
    DataError
        No class has two images.
    """
    good, widths, heights, grey = read_all(images, readers, say)
    counts = np.bincount(images.labels[good], minlength=len(images.names))
    few = np.flatnonzero(counts < 2)
    if len(few) == len(counts):
        raise DataError('no class has two images that can be read')
    if len(few):
        say(f'left out {len(few)} classes with fewer than two readable images, the first is '
            f'{images.names[few[0]]!r}')
    rows = np.flatnonzero(good & (counts >= 2)[images.labels])
    return images.keep(rows), (1 if grey[rows].all() else 3, int(np.median(heights[rows])),
                               int(np.median(widths[rows])))


class Plain(gluon.data.Dataset):
    """Some of the images as they are: (channels, height, width) uint8."""

    def __init__(self, images, rows, shape):
        self._images, self._rows, self._shape = images, rows, shape

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, number):
        return self._images.pixels(self._rows[number], self._shape)


class Training(gluon.data.Dataset):
    """Images to train on, with their labels.

    An item is asked for by the row of the image and, for the first one of a batch, a seed: so a run
    can be repeated whichever worker reads the batch.

    Parameters
    ----------
    images : Images
    classes : numpy.ndarray
        The labels to train on, which get the numbers 0, 1, …
    shape : (int, int, int)
        Channels, height and width.
    """

    def __init__(self, images, classes, shape):
        self._images, self._shape = images, shape
        self._number = {label: number for number, label in enumerate(classes)}

    def __len__(self):
        return len(self._images)

    def __getitem__(self, row_and_seed):
        row, seed = row_and_seed
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed)
            mx.random.seed(seed)
        return self._images.pixels(row, self._shape), self._number[self._images.labels[row]]


class Vary:
    """Makes a batch of images, each varied in another way every time: a DataLoader's batchify_fn.

    The batch is a NumPy array: NDArrays would go through shared memory, of which containers have
    little, and which leaves messages when a run is interrupted.

    Parameters
    ----------
    drawings : bool
        Whether the images are drawings, such as letters: then they are moved and turned, but
        neither mirrored, nor lit in another way, nor covered.
    """
    # The limits of each change. Shares are of height or width, light is in pixel values.
    SHIFT, ZOOM, SQUEEZE, SHEAR, ANGLE, LIGHT, COVER = 0.05, 0.1, 0.1, 0.06, np.deg2rad(8), 15, 0.3

    def __init__(self, drawings):
        self._drawings = drawings
        self._color = transforms.RandomColorJitter(brightness=0.2, contrast=0.2, saturation=0.2)

    def __call__(self, samples):
        """(images (N, channels, height, width) uint8, labels (N,), seconds of processor time)."""
        global _spent
        images, labels = zip(*samples)
        if len(images[0]) == 3 and not self._drawings:
            images = [self._color(mx.nd.array(image.transpose(1, 2, 0), dtype='uint8')).asnumpy()
                      .transpose(2, 0, 1) for image in images]
        images = self._moved(mx.nd.array(np.stack(images)))
        if not self._drawings:
            images = self._lit_and_covered(images)
        images = images.rint().clip(0, 255).astype('uint8').asnumpy()
        before, _spent = _spent, time.process_time()
        return images, np.array(labels), _spent - before

    def _moved(self, images):
        """Each image turned, sheared, zoomed, shifted and half of them mirrored.

        Outside an image, its edges are repeated.
        """
        count, _, height, width = images.shape

        def within(limit):
            return np.random.uniform(-limit, limit, count)

        angle, zoom = within(self.ANGLE), 1 + within(self.ZOOM)
        cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
        aspect = (height - 1) / (width - 1)
        mirror = 1 if self._drawings else np.random.choice([-1, 1], count)
        margin = max(height, width) // 4
        # From the output's coordinates, −1 to 1, to those of the image with its margin.
        of_width, of_height = ((size - 1) / (size + 2 * margin - 1) for size in (width, height))
        matrices = np.stack([
            of_width * cos * mirror, of_width * (within(self.SHEAR) - sin * aspect),
            of_width * within(2 * self.SHIFT),
            of_height * (within(self.SHEAR) + sin / aspect) * mirror,
            of_height * cos * (1 + within(self.SQUEEZE)), of_height * within(2 * self.SHIFT)], 1)
        padded = mx.nd.pad(images, mode='edge', pad_width=(0, 0, 0, 0, *[margin] * 4))
        return mx.nd.BilinearSampler(padded, mx.nd.GridGenerator(
            mx.nd.array(matrices), 'affine', target_shape=(height, width)))

    def _lit_and_covered(self, images):
        """Each image lit from a side; of a third of them, a rectangle is covered."""
        count, _, height, width = images.shape
        down, right = np.random.uniform(-self.LIGHT, self.LIGHT, (2, count, 1, 1)).astype('float32')
        light = (down * np.linspace(-1, 1, height, dtype='float32')[:, None]
                 + right * np.linspace(-1, 1, width, dtype='float32'))
        pixels = mx.nd.broadcast_add(images, mx.nd.array(light[:, None])).asnumpy()
        for number in np.flatnonzero(np.random.uniform(size=count) < 0.3):
            high, wide = (max(1, int(side * np.random.uniform(0.1, self.COVER)))
                          for side in (height, width))
            top, left = np.random.randint(height - high + 1), np.random.randint(width - wide + 1)
            pixels[number, :, top:top + high, left:left + wide] = pixels[number].mean()
        return mx.nd.array(pixels)


class Batches:
    """The batches of an epoch, as a DataLoader's batch_sampler: rows with seeds.

    All images are taken once, in random order, before one is taken again. An epoch has 25 batches
    or more, so that a small data set is seen several times.

    Parameters
    ----------
    rows : numpy.ndarray
    batch_size : int
        Of all workers together; this worker takes every `workers`-th image, from `rank` on.
    """

    def __init__(self, rows, batch_size, seed, rank=0, workers=1):
        self._rows, self._batch_size, self._seed = rows, batch_size, seed
        self._mine = slice(rank, None, workers)
        self.epoch = 0

    def __len__(self):
        return max(25, len(self._rows) // self._batch_size)

    def __iter__(self):
        generator = np.random.RandomState((self._seed, self.epoch))
        count = len(self) * self._batch_size
        order = np.concatenate([generator.permutation(self._rows)
                                for _ in range(-(-count // len(self._rows)))])[:count]
        for start in range(0, count, self._batch_size):
            mine = order[start:start + self._batch_size][self._mine].tolist()
            seeds = [generator.randint(2 ** 31 - 1)] + [None] * (len(mine) - 1)
            yield list(zip(mine, seeds))


def load_pairs(path, folder, readers, say):
    """Pairs of images to verify: LFW's pairs.txt, or a .bin file of insightface.

    In pairs.txt a line is "name 1 2" for two images of one class, or "name 1 other 2" for two of
    different classes. The number is the one at the end of a file's name (name_0001.jpg). Pairs
    with an image that is missing or damaged are left out.

    Parameters
    ----------
    path, folder : str
        The file, and the folder with the images that pairs.txt names.
    readers, say
        As for `read_all`.

    Returns
    -------
    (Images, numpy.ndarray (P, 2), numpy.ndarray (P,))
        The images, the rows of each pair, and whether both show the same class.

    Raises
    ------
    DataError
    """
    try:
        with open(path, 'rb') as file:
            content = file.read()
    except OSError as error:
        raise DataError(f'cannot read {path}: {error.strerror}') from None
    images, pairs, same = (_pairs_of_bin(path, content) if path.endswith('.bin') else
                           _pairs_of_text(path, content, load(folder), say))
    good = read_all(images, readers, say)[0][pairs].all(axis=1)
    pairs, same = pairs[good], same[good]
    if min(same.sum(), (~same).sum()) < 10:
        raise DataError(f'{path} needs ten pairs of the same class and ten of different ones, has '
                        f'{same.sum()} and {(~same).sum()} whose images are there')
    return images, pairs, same


def _pairs_of_text(path, content, images, say):
    rows = {(images.names[label], int(number.group(1))): row
            for row, label in enumerate(images.labels) if isinstance(images.files[row], str)
            for number in [re.search(r'(\d+)\.\w+$', images.files[row])] if number}
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError:
        raise DataError(f'{path} is neither text nor a .bin file') from None
    pairs, missing = [], []
    for number, line in enumerate(lines, 1):
        words = line.split('\t') if '\t' in line else line.split()
        if all(word.isdigit() for word in words) and len(words) < 3:
            continue    # the first line: how many folds and pairs
        if len(words) == 3:
            words.insert(2, words[0])
        if len(words) != 4 or not (words[1].isdigit() and words[3].isdigit()):
            raise DataError(f'{path}, line {number}: expected "name 1 2" or "name 1 other 2", got '
                            f'{line[:80]!r}')
        pair = [(words[0], int(words[1])), (words[2], int(words[3]))]
        missing += [image for image in pair if image not in rows]
        if all(image in rows for image in pair):
            pairs.append(pair)
    if missing:
        say(f'{path}: left out the pairs with {len(set(missing))} images that are not there, the '
            f'first is {missing[0][0]} {missing[0][1]}')
    if not pairs:
        raise DataError(f'{path} names no pair of images that are there')
    same = np.array([one[0] == other[0] for one, other in pairs])
    used = {image: number for number, image in enumerate(sorted(
        {image for pair in pairs for image in pair}))}
    return (images.keep(np.array([rows[image] for image in used])),
            np.array([[used[image] for image in pair] for pair in pairs]), same)


class _DataOnly(pickle.Unpickler):
    """Bytes, lists, tuples, numbers and booleans: everything else needs a class, and is refused."""

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f'it asks for {module}.{name}')


def _pairs_of_bin(path, content):
    try:
        # In Python 2, which wrote the files that are around, bytes were strings.
        files, same = _DataOnly(io.BytesIO(content), encoding='bytes').load()
        if not (all(isinstance(file, bytes) for file in files)
                and all(isinstance(value, (bool, int)) for value in same)
                and len(files) == 2 * len(same)):
            raise ValueError('expected a list of encoded images and one of booleans')
    except Exception as error:
        # A pickle that is damaged raises nearly anything.
        raise DataError(f'cannot read {path}: {error}') from None
    images = Images(files, np.zeros(len(files), int), [os.path.basename(path)])
    return images, np.arange(len(files)).reshape(-1, 2), np.array(same, bool)
