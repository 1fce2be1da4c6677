"""Recognize people, products or plants that were enrolled from a few images each.

    python examples/recognize.py enrol OUT GALLERY_FOLDER    # one sub-folder of images per class
    python examples/recognize.py identify OUT photo.jpg folder_of_photos
    python examples/recognize.py verify OUT one.jpg other.jpg

OUT is the ``--output-dir`` of ``train_images.py``. This program reads ``recognizer.json`` (the size
of the images, the distance, the thresholds) and the network: ``embedding.onnx`` with ONNX Runtime,
or ``embedding-symbol.json`` and ``embedding-0000.params`` with MXNet, which give the same answers
to rounding. With ONNX Runtime it needs NumPy, Pillow and tqdm, but neither MXNet nor
center_loss_op: copy this file and OUT to where they serve.

The enrolled classes need not be among those that the network was trained on. ``enrol`` writes the
mean embedding of each class to ``OUT/gallery.npz``, and ``identify`` finds the mean that is nearest
to an image. Means reject strangers better than the centers of the training do (docs/results.md,
"Classes never seen, by the hundred"), and centers exist only for the classes of the training.

At the threshold or farther, an image is unknown. ``recognizer.json`` has the thresholds at which
1 % and 0.1 % of the pairs of images of different classes are accepted (``--far``). `identify`
compares a stranger with every enrolled class, and a mean of several images is nearer to everything
than one image. It therefore accepts more strangers than that, above all with many classes: use
``--far 0.001``, or find a ``--threshold`` on images of your own.

An image that cannot be read gets a line on stderr, and the others are still answered. The exit
status is 0 if all images were read, whatever the answers; 1 if some were not, or after an error;
2 for a wrong command line.
"""
import argparse
import contextlib
import glob
import importlib.util
import json
import os
import signal
import sys
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

# What a file may be, whatever its name says. Pillow knows more formats, among them EPS: a program,
# which it gives to Ghostscript to run.
FORMATS = ('JPEG', 'PNG', 'PPM', 'BMP', 'GIF', 'TIFF', 'WEBP')
# The names of images in a folder. A file that the command line names may have any name.
SUFFIXES = ('.jpg', '.jpeg', '.png', '.ppm', '.pgm', '.pbm', '.bmp', '.gif', '.tif', '.tiff',
            '.webp')
RESIZE = 'shorter side, center crop'
BATCH = 64


class RecognizerError(Exception):
    """What the user can put right; it ends the program with one line."""


class UnreadableImage(Exception):
    """A file that gives no image; the text is the reason."""


def main(arguments=None):
    """Do what the command line says; returns the exit status."""
    options = parse(arguments)
    try:
        return options.command(options, Network(options.out, options.backend))
    except RecognizerError as error:
        print(f'recognize.py: error: {error}', file=sys.stderr)
        return 1


def parse(arguments=None):
    """The options as an argparse.Namespace."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument('out', metavar='OUT', help='the --output-dir of train_images.py')
    common.add_argument('--backend', choices=('onnx', 'mxnet'), help='what runs the network '
                        '(default: onnx if onnxruntime is installed, otherwise mxnet)')
    accept = argparse.ArgumentParser(add_help=False)
    either = accept.add_mutually_exclusive_group()
    either.add_argument('--far', type=float, default=0.01, metavar='RATE', help='accept this share '
                        'of the pairs of different classes: 0.01 (default) or 0.001')
    either.add_argument('--threshold', type=float, metavar='NUMBER',
                        help='accept distances below this number instead')

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    command = commands.add_parser(
        'enrol', parents=[common], help='add classes to OUT/gallery.npz',
        description='Add the classes of a folder to OUT/gallery.npz. Classes that were enrolled '
        'before stay. A class that is enrolled again is replaced: its earlier images no longer '
        'count.')
    command.add_argument('gallery', metavar='GALLERY_FOLDER',
                         help='one sub-folder of images per class, with the name of the class')
    command.set_defaults(command=enrol)
    command = commands.add_parser(
        'identify', parents=[common, accept], help='name the class of each image',
        description='Print "path<TAB>name or unknown<TAB>distance" per image.')
    command.add_argument('images', metavar='IMAGE', nargs='+',
                         help='a file, or a folder: all images in it and in its sub-folders')
    command.set_defaults(command=identify)
    command = commands.add_parser(
        'verify', parents=[common, accept], help='compare two images',
        description='Print "same<TAB>distance" or "different<TAB>distance".')
    command.add_argument('images', metavar='IMAGE', nargs=2)
    command.set_defaults(command=verify)
    return parser.parse_args(arguments)


def enrol(options, network):
    """Add the mean embedding of each class in a folder to the gallery."""
    gallery = read_gallery(network) if os.path.exists(network.path('gallery.npz')) else {}
    status, name_of = 0, {}
    for folder in sorted(glob.glob(os.path.join(glob.escape(options.gallery), '*', ''))):
        name = os.path.basename(os.path.dirname(folder))
        if name == 'unknown' or not name.isprintable():  # identify's lines would be ambiguous
            raise RecognizerError(f'a class cannot have the name {name!r}: rename its folder')
        paths = image_files(folder)
        if not paths:
            print(f'{folder}: no images', file=sys.stderr)
            status = 1
        name_of.update((path, name) for path in paths)
    if not name_of:
        raise RecognizerError(f'{options.gallery} has no sub-folders with images: it needs one '
                              'per class')
    sums, counts = Counter(), Counter()
    for path, embedding in network.embed(name_of):
        if embedding is None:
            status = 1
        else:
            sums[name_of[path]] += embedding
            counts[name_of[path]] += 1
    enrolled = {name: (network.scaled(sums[name] / count), count)
                for name, count in counts.items()}
    if not enrolled:
        raise RecognizerError(f'no image in {options.gallery} can be read')
    write_gallery(network, {**gallery, **enrolled})
    for name, (_, count) in enrolled.items():
        print(f'{"replaced" if name in gallery else "enrolled"}\t{name}\t{count}')
    return status


def identify(options, network):
    """Print the nearest class of each image, or unknown, and its distance."""
    threshold = network.threshold(options)
    gallery = read_gallery(network)
    names, means = list(gallery), np.stack([mean for mean, _ in gallery.values()])
    status, paths = 0, []
    for path in options.images:
        found = image_files(path, '**') if os.path.isdir(path) else [path]
        if not found:
            raise RecognizerError(f'no images in {path}')
        paths += found
    for path, embedding in network.embed(paths):
        if embedding is None:
            status = 1
            continue
        distances = network.distances(embedding, means)
        nearest = distances.argmin()
        name = names[nearest] if distances[nearest] < threshold else 'unknown'
        tqdm.write(f'{path}\t{name}\t{distances[nearest]:.6g}', file=sys.stdout)
    return status


def verify(options, network):
    """Print whether two images show the same class, and their distance."""
    threshold = network.threshold(options)
    one, other = (embedding for _, embedding in network.embed(options.images))
    if one is None or other is None:
        return 1
    distance = network.distances(one, other[None])[0]
    print(f'{"same" if distance < threshold else "different"}\t{distance:.6g}')
    return 0


class Network:
    """A trained network with its settings: from images to embeddings, and their distances."""

    def __init__(self, folder, backend=None):
        self._folder = folder
        path = self.path('recognizer.json', needed=True)
        with loading(path), open(path, encoding='utf-8') as file:
            settings = json.load(file)
            if settings['resize'] != RESIZE or settings['distance'] not in ('euclidean', 'cosine'):
                raise ValueError(f'made by another version of train_images.py: {settings}')
            self._shape = tuple(settings['input'])
            self._cosine = settings['distance'] == 'cosine'
            self._thresholds = {float(far): value for far, value in settings['thresholds'].items()}
            self.digest = settings['network']
        if backend is None:
            missing = importlib.util.find_spec('onnxruntime') is None
            backend = 'mxnet' if missing and importlib.util.find_spec('mxnet') else 'onnx'
        self.run = self._mxnet() if backend == 'mxnet' else self._onnx()

    def path(self, name, needed=False):
        """Where a file of the folder is; an error if it is needed and missing."""
        path = os.path.join(self._folder, name)
        if needed and not os.path.isfile(path):
            raise RecognizerError(f'{self._folder} has no {name}: OUT must be the --output-dir of '
                                  'train_images.py')
        return path

    def _onnx(self):
        path = self.path('embedding.onnx', needed=True)
        with loading(path):
            import onnxruntime
            session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
        return lambda images: session.run(None, {'data': images})[0]

    def _mxnet(self):
        symbol = self.path('embedding-symbol.json', needed=True)
        params = self.path('embedding-0000.params', needed=True)
        with loading(symbol), warnings.catch_warnings():
            warnings.simplefilter('ignore')  # "Cannot decide type for … data"
            if importlib.util.find_spec('center_loss_op'):
                import center_loss_op  # noqa: F401 - makes MXNet work with NumPy 1.24 and later
            import mxnet as mx
            net = mx.gluon.SymbolBlock.imports(symbol, ['data'], params)
        return lambda images: net(mx.nd.array(images)).asnumpy()

    def threshold(self, options):
        """The distance from which on images count as of different classes."""
        if options.threshold is not None:
            return options.threshold
        if options.far not in self._thresholds:
            known = ' or '.join(f'{far:g}' for far in self._thresholds)
            raise RecognizerError(f'no threshold for --far {options.far:g}: use {known}, or '
                                  '--threshold NUMBER')
        if self._thresholds[options.far] is None:
            raise RecognizerError(f'no threshold for --far {options.far:g}: training held out too '
                                  'few classes to find it; use --threshold NUMBER')
        return self._thresholds[options.far]

    def embed(self, paths):
        """Yield (path, embedding) per path, (d,) float64; None, with a line on stderr, if it
        cannot be read."""
        paths = list(paths)
        with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(
                total=len(paths), unit=' images', leave=False,
                disable=len(paths) <= BATCH or None) as bar:  # None: where stderr is no terminal
            for begin in range(0, len(paths), BATCH):
                batch = paths[begin:begin + BATCH]
                # Threads, because Pillow decodes without Python's lock.
                images = list(pool.map(self._load, batch))
                good = [image for image in images if isinstance(image, np.ndarray)]
                embeddings = iter(self.run(np.stack(good).astype(np.float32)) if good else ())
                for path, image in zip(batch, images):
                    if isinstance(image, np.ndarray):
                        yield path, self.scaled(next(embeddings).astype(np.float64))
                    else:
                        tqdm.write(f'{path}: {image}', file=sys.stderr)
                        yield path, None
                bar.update(len(batch))

    def _load(self, path):
        try:
            return load_image(path, self._shape)
        except UnreadableImage as error:
            return error

    def scaled(self, embedding):
        """The embedding, with unit length if the distance is cosine."""
        return embedding / max(np.linalg.norm(embedding), 1e-12) if self._cosine else embedding

    def distances(self, embedding, others):
        """Euclidean distances, or 1 - cos, of one embedding, (d,), to others, (K, d)."""
        if self._cosine:
            return np.maximum(1 - others @ embedding, 0)
        return np.linalg.norm(others - embedding, axis=1)


@contextlib.contextmanager
def loading(path):
    """One line for whatever a library raises that is missing or gets a damaged file."""
    try:
        yield
    except Exception as error:
        reason = f'{error}'.strip().split('\n')[0]
        raise RecognizerError(f'cannot load {path}: {type(error).__name__}: {reason}') from None


def load_image(file, shape):
    """The pixels of an image, (channels, height, width) uint8.

    The image is turned as its EXIF data says, made grey or RGB, and resized (bilinear) so that it
    just covers height and width; what sticks out of the center is cut off.

    Parameters
    ----------
    file : str, or binary file
    shape : (int, int, int)
        Channels (1 is grey, 3 is RGB), height and width.

    Raises
    ------
    UnreadableImage
    """
    channels, height, width = shape
    try:
        with Image.open(file, formats=FORMATS) as image:
            # Decode a large JPEG at 1/2, 1/4 or 1/8 of its size, at least twice what is needed.
            image.draft(None, (2 * max(height, width),) * 2)
            image = ImageOps.exif_transpose(image)
            if image.mode[0] in 'IF':  # more than 8 bits: the range of the image becomes 0 to 255
                pixels = np.asarray(image, np.float64)
                pixels = (pixels - pixels.min()) * (255 / ((pixels.max() - pixels.min()) or 1))
                image = Image.fromarray(pixels.astype(np.uint8))
            image = image.convert('L' if channels == 1 else 'RGB')
            image = ImageOps.fit(image, (width, height), Image.BILINEAR)
    except Exception as error:
        # A damaged file makes Pillow raise nearly anything.
        reason = getattr(error, 'strerror', None)
        raise UnreadableImage(reason or f'no image, or a damaged one: {error}') from None
    return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)


def image_files(folder, below=''):
    """The paths of the images in a folder, sorted, without hidden ones; '**': and below it."""
    return sorted(path for path in glob.glob(os.path.join(glob.escape(folder), below, '*'),
                                             recursive=True)
                  if path.lower().endswith(SUFFIXES) and os.path.isfile(path))


def read_gallery(network):
    """The enrolled classes: {name: (mean embedding, number of images)}."""
    path = network.path('gallery.npz')
    if not os.path.exists(path):
        raise RecognizerError('nothing is enrolled yet: recognize.py enrol OUT GALLERY_FOLDER')
    with loading(path), np.load(path, allow_pickle=False) as file:
        digest = str(file['network'])
        gallery = {str(name): (mean, count) for name, mean, count
                   in zip(file['names'], file['means'], file['counts'])}
    if digest != network.digest:
        raise RecognizerError(f'{path} was made with another network ({digest}, not '
                              f'{network.digest}): remove it and enrol again')
    return gallery


def write_gallery(network, gallery):
    """Write the enrolled classes; gallery.npz is always the old file or the new one, whole."""
    path = network.path('gallery.npz')
    means, counts = zip(*gallery.values())
    try:
        with open(path + '.unfinished', 'wb') as file:
            np.savez(file, names=np.array(list(gallery)), means=np.array(means),
                     counts=np.array(counts), network=np.array(network.digest))
            file.flush()
            os.fsync(file.fileno())
        os.replace(path + '.unfinished', path)
    except OSError as error:
        raise RecognizerError(f'cannot write {path}: {error.strerror}') from None


if __name__ == '__main__':
    warnings.filterwarnings('ignore', module='PIL')  # about odd metadata
    sys.stdout.reconfigure(errors='surrogateescape')  # a path may be any bytes
    if hasattr(signal, 'SIGPIPE'):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly in `… | head`
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
