"""OUT as it is served: the network by ONNX Runtime, the thresholds, the gallery."""
import contextlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import checkpoint
import data
import numpy as np
from data import BadPicture, printable
from tqdm import tqdm

MODEL, GALLERY = 'embedding.onnx', 'gallery.npz'
SHARE = 0.01        # of strangers that are accepted by default
WAIT = 60           # seconds for another program that changes OUT
# The pictures that the network gets at a time have so many pixels, and are so many, at most.
_PIXELS, _BATCH = 64 * 64 * 64, 64
_TYPES = {'tensor(float)': np.float32, 'tensor(float16)': np.float16, 'tensor(double)': np.float64,
          'tensor(uint8)': np.uint8}


class RecognizerError(Exception):
    """What the user can put right; it ends the program with one line."""


# -- the network


def open_session(content, path):
    """ONNX Runtime with a network."""
    with _bounded(16 * len(content)), _one_line(path):
        try:
            import onnxruntime
        except ImportError:
            raise RecognizerError('onnxruntime is missing: pip install onnxruntime') from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4      # what is wrong comes as an exception as well
        return onnxruntime.InferenceSession(content, options, providers=['CPUExecutionProvider'])


@contextlib.contextmanager
def _one_line(path):
    """One line for whatever ONNX Runtime raises for a network that is damaged or does not fit."""
    try:
        yield
    except RecognizerError:
        raise
    except Exception as error:
        reason = ' '.join(str(error).split())[:200]
        raise RecognizerError(f'cannot run {path}: {reason or type(error).__name__}') from None


@contextlib.contextmanager
def _bounded(more):
    """A context in which the process takes so many bytes more, and 0.4 GB, but no others: a small
    ONNX file can ask for any memory. Only Linux has such a limit."""
    try:
        import resource
        with open('/proc/self/statm', encoding='ascii') as file:
            now = int(file.read().split()[5]) * resource.getpagesize()
        before = resource.getrlimit(resource.RLIMIT_DATA)
        limits = [now + more + 400_000_000, *(one for one in before
                                              if one != resource.RLIM_INFINITY)]
        resource.setrlimit(resource.RLIMIT_DATA, (min(limits), before[1]))
    except (ImportError, OSError, ValueError):
        yield
        return
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


class Runner:
    """Pictures to embeddings, by a session and the settings in recognizer.json."""

    def __init__(self, session, settings, path, size):
        self._session, self._path = session, path
        channels, (height, width) = settings['channels'], settings['size']
        self._mean, self._std = (np.array(settings[name], np.float32) for name in ('mean', 'std'))
        inputs = session.get_inputs()
        shape = inputs[0].shape
        fits = [axes for axes, expected in (((0, 3, 1, 2), (channels, height, width)),
                                            ((0, 1, 2, 3), (height, width, channels)))
                if len(inputs) == 1 and len(shape) == 4 and all(
                    not isinstance(one, int) or one == other
                    for one, other in zip(shape[1:], expected))]
        if not fits or inputs[0].type not in _TYPES:
            raise RecognizerError(f'{path} must take one input of {channels} x {height} x {width}, '
                                  f'takes {[(one.type, one.shape) for one in inputs]}')
        self._axes, self._input = fits[0], inputs[0]
        # Some networks take a certain number of pictures only.
        self._count = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
        self._room = 16 * size + 2048 * max(_PIXELS, height * width)
        self.batch = min(max(1, _PIXELS // (height * width)), _BATCH)

    def __call__(self, pictures):
        """The embeddings, (n, d) float64, of pictures, (n, height, width, channels) uint8."""
        count = self._count or len(pictures)
        images = ((pictures - self._mean) / self._std).transpose(self._axes)
        images = images.astype(_TYPES[self._input.type])
        images = np.concatenate([images, images[:1].repeat(-len(images) % count, axis=0)])
        results = []
        for start in range(0, len(images), count):
            with _bounded(self._room), _one_line(self._path):
                results.append(np.asarray(self._session.run(
                    [self._session.get_outputs()[0].name],
                    {self._input.name: images[start:start + count]})[0], np.float64))
        shape = results[0].shape
        if len(shape) < 2 or shape[0] != count or not 0 < results[0].size <= count * \
                checkpoint.FEATURES[1] or any(result.shape != shape for result in results):
            raise RecognizerError(f'{self._path} must give an embedding per picture, gives '
                                  f'{shape} for {count}')
        return np.concatenate(results).reshape(len(images), -1)[:len(pictures)]


class Network:
    """OUT: from pictures to embeddings and names."""

    def __init__(self, out):
        self._out, self._path = out, os.path.join(out, MODEL)
        self.settings = settings = checkpoint.load_recognizer(out, (MODEL,))
        content = settings.pop('content')[MODEL]
        self._run = Runner(open_session(content, self._path), settings, self._path, len(content))
        self.kind = settings['distance']

    def embed(self, files, source=None):
        """Yield (file, embedding (d,)) per file; None, with a line on stderr, if there is none.
        `source` is where files come from that are no paths."""
        def load(file):
            try:
                return data.read_picture(file, self.settings['size'], self.settings['channels'])
            except BadPicture as error:
                return str(error)

        size = self._run.batch
        with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(
                total=len(files), unit=' pictures', leave=False,
                disable=len(files) <= _BATCH or None) as bar:  # None: where stderr is no terminal
            for begin in range(0, len(files), size):
                batch = files[begin:begin + size]
                loaded = list(pool.map(load, batch))    # Pillow decodes without Python's lock
                embeddings = iter(self._embeddings([one for one in loaded
                                                    if not isinstance(one, str)]))
                for row, (file, one) in enumerate(zip(batch, loaded), begin):
                    embedding = None if isinstance(one, str) else next(embeddings)
                    if embedding is not None and not np.isfinite(embedding).all():
                        one, embedding = 'the network gives numbers that are not finite', None
                    if embedding is None:
                        name = f'picture {row} of {source}' if source else file
                        tqdm.write(f'{printable(name)}: {one}', file=sys.stderr)
                    yield file, embedding
                bar.update(len(batch))

    def _embeddings(self, pictures):
        embeddings = self._run(np.stack(pictures)) if pictures else np.zeros((0, 1))
        if pictures and embeddings.shape[1] != self.settings['features']:
            raise RecognizerError(
                f'{self._path} gives {embeddings.shape[1]} features, recognizer.json says '
                f'{self.settings["features"]}: train again')
        return embeddings

    def all_of(self, files, source=None):
        """(embeddings (n, d), rows of the files that have one, whether others have none)."""
        found = [(row, embedding) for row, (_, embedding) in enumerate(self.embed(files, source))
                 if embedding is not None]
        embeddings = np.array([embedding for _, embedding in found]).reshape(
            len(found), self.settings['features'])
        return embeddings, [row for row, _ in found], len(found) < len(files)

    @contextlib.contextmanager
    def changing(self, what):
        """A context in which no other program changes OUT."""
        with checkpoint.lock(self._out, what, WAIT):
            if checkpoint.load_recognizer(self._out, ())['files'] != self.settings['files']:
                raise RecognizerError(f'{self._out} got another network meanwhile: start again')
            yield

    def write_thresholds(self, thresholds):
        """Write the thresholds that were found into recognizer.json; the others stay."""
        with self.changing('evaluate'):
            settings = checkpoint.load_recognizer(self._out, tuple(self.settings['files']))
            for kind, found in thresholds.items():
                settings['thresholds'][kind].update(found)
            checkpoint.publish(self._out, settings.pop('content'), settings)

    def pair_threshold(self, far):
        """The distance from which on two pictures count as of different classes."""
        known = {float(share): limit for share, limit
                 in self.settings['thresholds']['pairs'].items() if limit is not None}
        if far not in known:
            raise RecognizerError(
                f'{self._out} has no threshold for --far {far:g}: use '
                + ''.join(f'--far {share:g}, ' for share in known)
                + '--threshold DISTANCE, or find one with evaluate OUT FOLDER --write')
        return known[far]

    def stranger_threshold(self, share, count):
        """(distance from which on a picture is unknown, what to tell the user or None).

        Parameters
        ----------
        share : float or None
            Of the pictures of strangers that are accepted; None: 0.01, or the least that is known.
        count : int
            How many classes are enrolled.
        """
        known = {float(key): sorted(point for point in points if point[1] is not None)
                 for key, points in self.settings['thresholds']['strangers'].items()}
        known = {key: points for key, points in sorted(known.items()) if points}
        wanted = SHARE if share is None else share
        if share is None and known:
            wanted = max(wanted, min(known))
        if not known or not min(known) <= wanted <= max(known):
            raise RecognizerError(
                f'{self._out} has no threshold for {wanted:g} of strangers: use '
                + (f'--strangers from {min(known):g} to {max(known):g}, ' if known else '')
                + '--threshold DISTANCE, or find one with evaluate OUT FOLDER --write')
        limits = [threshold_at(points, count) for points in known.values()]
        most = max(known[min(known, key=lambda key: abs(key - wanted))])[0]
        remarks = []
        if share is None and wanted > SHARE:
            remarks.append(f'too few classes were held out to accept {SHARE:g} of strangers: '
                           f'accepting {wanted:g}')
        if count > most:
            remarks.append(f'the threshold was measured with {most} classes enrolled, not with '
                           f'{count}')
        return (float(np.interp(np.log(wanted), np.log(list(known)), limits)),
                '; '.join(remarks) or None)


def threshold_at(points, count):
    """The distance for so many enrolled classes: [[classes, distance], …] is linear in their log,
    and goes on in its last direction."""
    logs, limits = np.log([point[0] for point in points]), [point[1] for point in points]
    if len(points) > 1 and np.log(count) > logs[-1] > logs[-2]:
        slope = (limits[-1] - limits[-2]) / (logs[-1] - logs[-2])
        return max(0., limits[-1] + slope * (np.log(count) - logs[-1]))
    return float(np.interp(np.log(count), logs, limits))


# -- the gallery


class Gallery(NamedTuple):
    """The enrolled classes: their names, (K,), means, (K, d), and numbers of pictures, (K,)."""
    names: list
    means: np.ndarray
    counts: list

    def classes(self):
        """{name: (mean, number of pictures)}."""
        return dict(zip(self.names, zip(self.means, self.counts)))


def read_gallery(out, settings, needed=True):
    """The Gallery in OUT, after a check of all that is in it; without `needed`, it may be empty."""
    path = os.path.join(out, GALLERY)
    if not os.path.lexists(path):
        if needed:
            raise RecognizerError(f'nothing is enrolled yet: recognize.py enrol {out} GALLERY')
        return Gallery([], np.zeros((0, settings['features'])), [])
    arrays = checkpoint.read_npz(checkpoint.read_file(path), path)

    def need(good, what):
        if not good:
            raise RecognizerError(f'cannot use {path}: {what}; remove it and enrol again')

    missing = {'names', 'means', 'counts', 'network'} - set(arrays)
    need(not missing, f'it has no {", ".join(sorted(missing))}')
    names, means, counts = (arrays[name] for name in ('names', 'means', 'counts'))
    need(arrays['network'].shape == () and str(arrays['network']) == settings['files'].get(MODEL),
         'it was made with another network')
    need(names.ndim == 1 and names.dtype.kind == 'U' and len(names), 'it has no names')
    need(means.dtype.kind == 'f' and means.shape == (len(names), settings['features'])
         and counts.dtype.kind in 'iu' and counts.shape == names.shape and counts.min() > 0,
         f'it needs a mean of {settings["features"]} numbers and a count for each of its '
         f'{len(names)} names')
    names, means = names.tolist(), means.astype(np.float64)
    need(all(map(usable_name, names)) and len(set(names)) == len(names),
         'its names are not as they have to be')
    need((np.abs(means) < 1e30).all() and (settings['distance'] != 'cosine' or np.isclose(
        np.linalg.norm(means, axis=1), 1, atol=1e-3).all()),
        'its means are not finite, or not of length 1')
    return Gallery(names, means, counts.tolist())


def write_gallery(out, settings, classes):
    """Write gallery.npz of {name: (mean, number of pictures)}, or remove it with its last class."""
    path = os.path.join(out, GALLERY)
    if not classes:
        os.unlink(path)
        return
    means, counts = zip(*classes.values())
    checkpoint.write(path, checkpoint.npz(
        names=np.array(list(classes)), means=np.array(means), counts=np.array(counts),
        network=np.array(settings['files'][MODEL])))


def usable_name(name):
    """Whether a class can have this name: the lines of `identify` must be unambiguous."""
    return 0 < len(name) < 1000 and name.isprintable() and name != 'unknown'
