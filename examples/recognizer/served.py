"""OUT as it is served: the network by ONNX Runtime, the thresholds, the gallery."""
import contextlib
import os
import sys

import checkpoint
import numpy as np
from checkpoint import SIDES, DataError
from data import BadPicture, each, printable, read_picture
from tqdm import tqdm

MODEL, GALLERY = 'embedding.onnx', 'gallery.npz'
SHARE = 0.01        # of strangers that are accepted by default
WAIT = 60           # seconds for another program that changes OUT
# The pictures that the network gets at a time have so many pixels, and are so many, at most.
_PIXELS, _BATCH = 64 * 64 * 64, 64
_TYPES = {'tensor(float)': np.float32, 'tensor(float16)': np.float16, 'tensor(double)': np.float64,
          'tensor(uint8)': np.uint8}


# -- the network


@contextlib.contextmanager
def _bounded(path, more):
    """A context in which the process takes so many bytes more, and 0.4 GB, but no others: a small
    ONNX file can ask for any memory. Only Linux has such a limit. Errors become one line."""
    before = limit = None
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource
        with open('/proc/self/statm', encoding='ascii') as file:
            now = int(file.read().split()[5]) * resource.getpagesize()
        before = resource.getrlimit(resource.RLIMIT_DATA)
        limit = min([now + more + 400_000_000, *filter(resource.RLIM_INFINITY.__ne__, before)])
        resource.setrlimit(resource.RLIMIT_DATA, (limit, before[1]))
    try:
        yield
    except Exception as error:  # a network that is damaged or does not fit raises nearly anything
        reason = ' '.join(str(error).split())[:200] or type(error).__name__
        raise DataError(f'cannot run {path}: {reason}') from None
    finally:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_DATA, before)


class Runner:
    """An ONNX network from pictures to embeddings, of this program or of somebody else.

    `path` is what errors call its `content`. `channels`, `size` and `features` are what they have
    to be, if that is known.
    """

    def __init__(self, content, path, mean, std, channels=None, size=None, features=None):
        self._path, self._room, self._features = path, 16 * len(content), features
        with _bounded(path, self._room):
            import onnxruntime
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4      # what is wrong comes as an exception as well
            self._session = onnxruntime.InferenceSession(content, options,
                                                         providers=['CPUExecutionProvider'])
        inputs = self._session.get_inputs()
        self._input, shape = inputs[0].name, [*inputs[0].shape, 0, 0, 0, 0]
        last = shape[3] in (1, 3) and shape[1] not in (1, 3)
        self._axes = (0, 1, 2, 3) if last else (0, 3, 1, 2)
        asked = [channels or 3, *(size or ['height', 'width'])]
        found = [shape[axis] if isinstance(shape[axis], int) else one for axis, one in zip(
            (3, 1, 2) if last else (1, 2, 3), asked)]
        self.channels, self.size = found[0], found[1:]
        if (len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in _TYPES
                or found[0] not in (1, 3) or (channels and found[0] != channels)
                or (size and found[1:] != list(size))
                or not all(isinstance(one, int) and SIDES[0] <= one <= SIDES[1]
                           for one in found[1:])):
            raise DataError(
                f'{path} must take one input of {channels or "1 or 3"} x {asked[1]} x {asked[2]}, '
                f'takes {[(one.type, one.shape) for one in inputs]}; --size H W says what it was '
                f'trained with, from {SIDES[0]} to {SIDES[1]}')
        if not {len(mean), len(std)} <= {1, self.channels}:
            raise DataError(f'{path} takes {self.channels} channels: --mean and --std must '
                            'be one number, or one for each')
        self._type = _TYPES[inputs[0].type]
        self._mean, self._std = np.float32(mean), np.float32(std)
        # Some networks take a certain number of pictures only.
        self._count = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
        pixels = self.size[0] * self.size[1]
        self._room += 2048 * max(_PIXELS, pixels)
        self.batch = min(max(1, _PIXELS // pixels), _BATCH)

    def __call__(self, pictures):
        """The embeddings, (n, d) float64, of pictures, (n, height, width, channels) uint8."""
        count = self._count or len(pictures)
        images = ((pictures - self._mean) / self._std).transpose(self._axes).astype(self._type)
        images = np.concatenate([images, images[:1].repeat(-len(images) % count, axis=0)])
        output, results = self._session.get_outputs()[0].name, []
        for start in range(0, len(images), count):
            with _bounded(self._path, self._room):
                results.append(np.asarray(self._session.run(
                    [output], {self._input: images[start:start + count]})[0], np.float64))
        shape = results[0].shape
        if len(shape) < 2 or shape[0] != count or not 0 < results[0].size <= count * \
                checkpoint.FEATURES[1] or any(result.shape != shape for result in results):
            raise DataError(f'{self._path} must give an embedding per picture, gives {shape} for '
                            f'{count}')
        embeddings = np.concatenate(results).reshape(len(images), -1)[:len(pictures)]
        if self._features not in (None, embeddings.shape[1]):
            raise DataError(f'{self._path} gives {embeddings.shape[1]} features, recognizer.json '
                            f'says {self._features}: train again')
        return embeddings


class Network:
    """OUT: from pictures to embeddings and names."""

    def __init__(self, out):
        self._out, self._path = out, os.path.join(out, MODEL)
        self.settings = settings = checkpoint.load_recognizer(out, (MODEL,))
        self._run = Runner(settings.pop('content')[MODEL], self._path, *(
            settings[name] for name in ('mean', 'std', 'channels', 'size', 'features')))
        self.kind = settings['distance']

    def embed(self, files, source=None):
        """Yield (row, embedding (d,)) of the files that have one; others get a line on stderr.
        `source` is where files come from that are no paths."""
        def load(row):
            try:
                return row, read_picture(
                    files[row], self.settings['size'], self.settings['channels']), None
            except BadPicture as error:
                return row, None, error

        for loaded in each(load, range(len(files)), None, len(files) <= _BATCH, self._run.batch):
            pictures = [picture for _, picture, _ in loaded if picture is not None]
            embeddings = iter(self._run(np.stack(pictures)) if pictures else ())
            for row, picture, error in loaded:
                embedding = None if picture is None else next(embeddings)
                if embedding is not None and np.isfinite(embedding).all():
                    yield row, embedding
                    continue
                name = f'picture {row} of {source}' if source else files[row]
                tqdm.write(f'{printable(name)}: '
                           f'{error or "the network gives numbers that are not finite"}',
                           file=sys.stderr)

    def all_of(self, files, source=None):
        """(embeddings (n, d), rows of the files that have one, whether others have none)."""
        found = dict(self.embed(files, source))
        embeddings = np.array(list(found.values())).reshape(len(found), self.settings['features'])
        return embeddings, list(found), len(found) < len(files)

    @contextlib.contextmanager
    def changing(self):
        """A context in which no other program changes OUT."""
        with checkpoint.lock(self._out, WAIT):
            if checkpoint.load_recognizer(self._out, ())['files'] != self.settings['files']:
                raise DataError(f'{self._out} got another network meanwhile: start again')
            yield

    def write_thresholds(self, thresholds):
        """Write the thresholds that were found into recognizer.json; the others stay, also those
        of the same share for other numbers of classes."""
        with self.changing():
            settings = checkpoint.load_recognizer(self._out, tuple(self.settings['files']))
            for kind, found in thresholds.items():
                known = settings['thresholds'][kind]
                for share, points in found.items():
                    points = {**dict(known.get(share, ())), **dict(points)}
                    if points:
                        known[share] = sorted(points.items())
            checkpoint.publish(self._out, settings.pop('content'), settings)

    def threshold(self, kind, share, count=1):
        """(the distance from which on the answer is no, what to tell the user or None).

        Of 'pairs' of pictures of different classes, or of pictures of 'strangers' with `count`
        classes enrolled, `share` is accepted; None is 0.01, or the least above it that is known.
        """
        known = {float(key): sorted(points)
                 for key, points in self.settings['thresholds'][kind].items() if points}
        wanted = share or min((one for one in known if one >= SHARE), default=SHARE)
        if wanted not in known:
            option = {'pairs': '--far', 'strangers': '--strangers'}[kind]
            others = ''.join(f'{option} {one:g}, ' for one in sorted(known))
            finds = f' {option} {wanted:g}' * (kind == 'strangers')
            raise DataError(f'{self._out} has no threshold for {option} {wanted:g}: use {others}'
                            f'--threshold DISTANCE, or find one with evaluate OUT FOLDER{finds} '
                            '--write')
        most, remarks = known[wanted][-1][0], []
        if wanted > (share or SHARE):
            remarks.append(f'too few classes were held out to accept {SHARE:g} of strangers: '
                           f'accepting {wanted:g}')
        if count > most:
            remarks.append(f'the threshold was measured with {most} classes enrolled, not with '
                           f'{count}')
        return threshold_at(known[wanted], count), '; '.join(remarks) or None


def threshold_at(points, count):
    """The distance for so many enrolled classes: [[classes, distance], …] is linear in their log,
    and goes on in its last direction."""
    logs, limits = np.log([point[0] for point in points]), [point[1] for point in points]
    if len(points) > 1 and np.log(count) > logs[-1] > logs[-2]:
        slope = (limits[-1] - limits[-2]) / (logs[-1] - logs[-2])
        return max(0., limits[-1] + slope * (np.log(count) - logs[-1]))
    return float(np.interp(np.log(count), logs, limits))


# -- the gallery


def read_gallery(out, settings, needed=True):
    """The enrolled classes, {name: (mean (d,), number of pictures)}, after a check of the whole
    file; without `needed`, there may be none."""
    path = os.path.join(out, GALLERY)
    if not os.path.lexists(path):
        if needed:
            raise DataError(f'nothing is enrolled yet: recognize.py enrol {out} GALLERY')
        return {}
    arrays = checkpoint.read_npz(checkpoint.read_file(path), path)

    def need(good, what):
        if not good:
            raise DataError(f'cannot use {path}: {what}; remove it and enrol again')

    need({'names', 'means', 'counts', 'network'} <= set(arrays), 'an array is missing in it')
    names, means, counts = (arrays[name] for name in ('names', 'means', 'counts'))
    need(str(arrays['network']) == settings['files'].get(MODEL), 'it was made with another network')
    need(names.ndim == 1 and names.dtype.kind == 'U' and len(names) and means.dtype.kind == 'f'
         and means.shape == (len(names), settings['features']) and counts.dtype.kind in 'iu'
         and counts.shape == names.shape and counts.min() > 0,
         f'it needs a mean of {settings["features"]} numbers and a count for each of its '
         f'{len(names) if names.ndim else 0} names')
    names, means = names.tolist(), means.astype(np.float64)
    need(all(map(usable_name, names)) and len(set(names)) == len(names),
         'its names are not as they have to be')
    need((np.abs(means) < 1e30).all() and (settings['distance'] != 'cosine' or np.isclose(
        np.linalg.norm(means, axis=1), 1, atol=1e-3).all()),
        'its means are not finite, or not of length 1')
    return dict(zip(names, zip(means, counts.tolist())))


def write_gallery(out, settings, classes):
    """Write what `read_gallery` reads, or remove the file with its last class."""
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
