"""Pictures of classes: from a folder, a .rec or an .npz file to arrays at the size of a network.

Each file is decoded once. `read_picture` is the only reader, for training and for serving; it needs
NumPy and Pillow. Sizes in headers are checked before memory is allocated, and nothing is unpickled.
"""
import hashlib
import io
import mmap
import os
import re
import stat
import struct
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

import checkpoint
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

# The names of picture files. A file that a command line names may have any name.
SUFFIXES = ('.jpg', '.jpeg', '.jfif', '.png', '.ppm', '.pgm', '.pbm', '.bmp', '.gif', '.tif',
            '.tiff', '.webp', '.heic', '.heif', '.avif')
# What a file may be, whatever its name says. Pillow knows more formats, among them EPS: a program,
# which it gives to Ghostscript to run.
_FORMATS = 'JPEG', 'PNG', 'PPM', 'BMP', 'GIF', 'TIFF', 'WEBP', 'HEIF', 'AVIF'
_HEIF = b'ftyphei', b'ftyphev', b'ftypmif', b'ftypmsf', b'ftypavif'
# The most pixels of a picture, for files below and above so many bytes; and when it is decoded.
_SMALL_FILE, _MOST_PIXELS, _MOST_DECODED = 4_000_000, (50_000_000, 250_000_000), 100_000_000
# Pictures of more pixels are decoded one at a time, because of the memory; a JPEG only if it is
# progressive, for others are decoded at a smaller size.
_LARGE, _one_at_a_time = 16_000_000, threading.Lock()
Image.MAX_IMAGE_PIXELS = None    # the limits are those above
# Smaller blocks come from the heap, which each thread that decodes keeps for itself.
Image.core.set_block_size(2 ** 26)
_ORIENTATION = 0x0112
# Pixels that take fewer bytes are always kept in the memory.
_IN_MEMORY = 2 ** 27
_READERS = os.cpu_count() or 1
_MOST_REASONS = 12      # on the screen, why pictures were left out
_RECORD, _RECORD_HEADER = 0xced7230a, struct.Struct('<IfQQ')


class DataError(Exception):
    """Data that cannot be used, as one line for the user."""


class BadPicture(Exception):
    """A file that gives no picture; the text is the reason, one line."""


def printable(text):
    """A text as it can stand in a line of output: what is no printable letter is escaped."""
    return ''.join(letter if letter.isprintable() else letter.encode('unicode_escape').decode()
                   for letter in str(text))


# -- one picture


def read_picture(file, size, channels):
    """The picture that a viewer shows, covering `size` and cut to it from the middle.

    It is turned as the camera says, transparent parts are white.

    Parameters
    ----------
    file : str, or binary file
    size : (int, int)
        Height and width.
    channels : int
        1 is grey, 3 is RGB.

    Returns
    -------
    numpy.ndarray (height, width, channels), uint8

    Raises
    ------
    BadPicture
    """
    with _Opened(file) as (image, turn):
        height, width = size[::-1] if turn > 4 else size
        # Decodes a large JPEG at 1/2, 1/4 or 1/8 of its size, at least twice what is needed.
        image.draft(None, (2 * width, 2 * height))
        if image.width * image.height > _MOST_DECODED:
            raise BadPicture(f'{image.width} x {image.height} pixels are too many: make it smaller')
        image = ImageOps.fit(_plain(image), (width, height), Image.BILINEAR)
        pixels = np.asarray(image.convert('L' if channels == 1 else 'RGB'))
    return _turned(pixels.reshape(height, width, channels), turn)


def picture_header(file):
    """(height, width, whether it is grey) of a picture as a viewer shows it; BadPicture."""
    with _Opened(file) as (image, turn):
        sides = (image.width, image.height) if turn > 4 else (image.height, image.width)
        return (*sides, image.mode in ('1', 'L', 'LA', 'La') or image.mode[0] in 'IF')


class _Opened:
    """A context with (PIL.Image whose header was checked, its orientation from 1 to 8).

    Whatever Pillow raises in it becomes BadPicture: a damaged file makes it raise nearly anything.
    """

    def __init__(self, file):
        self._file, self._image, self._locked = file, None, False

    def __enter__(self):
        file = self._file
        try:
            if isinstance(file, (str, os.PathLike)):
                found = os.stat(file)
                if not stat.S_ISREG(found.st_mode):     # opening a pipe would wait for its writer
                    raise BadPicture('it is no regular file')
                large = found.st_size >= _SMALL_FILE
            else:
                large = file.seek(0, os.SEEK_END) >= _SMALL_FILE
            if self._start().endswith(b'WEBP'):     # takes memory already when it is opened
                self._locked = _one_at_a_time.acquire()
            self._image = image = Image.open(file, formats=_formats())
            if image.width * image.height > _MOST_PIXELS[large]:
                raise BadPicture(f'{image.width} x {image.height} pixels are out of proportion')
            large = image.width * image.height > _LARGE and (
                image.format != 'JPEG' or 'progressive' in image.info)
            if large != bool(self._locked):
                self._locked = _one_at_a_time.acquire() if large else _one_at_a_time.release()
            return image, _orientation(image)
        except Exception as error:
            self.__exit__(None, None, None)
            raise self._reason(error) from None

    def __exit__(self, kind, error, trace):
        if self._image is not None:
            self._image.close()
        if self._locked:
            self._locked = _one_at_a_time.release()
        if isinstance(error, Exception):
            raise self._reason(error) from None

    def _reason(self, error):
        if isinstance(error, BadPicture):
            return error
        if isinstance(error, OSError) and error.strerror:
            return BadPicture(error.strerror)
        if isinstance(error, UnidentifiedImageError):
            if self._start()[4:].startswith(_HEIF):
                return BadPicture('a HEIC or AVIF picture: pip install pillow-heif, and start '
                                  'again; or save it as JPEG')
            return BadPicture('no picture, or a damaged one')
        return BadPicture(f'a damaged picture ({printable(error)[:100]})')

    def _start(self):
        """The first twelve bytes."""
        if isinstance(self._file, (str, os.PathLike)):
            with open(self._file, 'rb') as file:
                return file.read(12)
        self._file.seek(0)
        start = self._file.read(12)
        self._file.seek(0)
        return start


def _formats():
    """The formats that are read and that this Pillow knows."""
    if not hasattr(_formats, 'known'):
        try:
            import pillow_heif
            pillow_heif.register_heif_opener()
        except ImportError:
            pass
        Image.init()
        _formats.known = tuple(name for name in _FORMATS if name in Image.OPEN)
    return _formats.known


def _orientation(image):
    """From 1, upright, to 8; some programs write the number as text, or as XMP."""
    try:
        value = image.getexif().get(_ORIENTATION)
        if value is None:
            xmp = image.info.get('xmp') or image.info.get('XML:com.adobe.xmp') or b''
            xmp = xmp if isinstance(xmp, bytes) else str(xmp).encode()
            value = (re.search(rb'tiff:Orientation(?:="|>)(\d)', xmp) or [b'', b'1'])[1].decode()
        value = int(str(value[0] if isinstance(value, tuple) else value).strip(' \0'))
        return value if 1 <= value <= 8 else 1
    except Exception:   # damaged metadata are none
        return 1


def _turned(pixels, turn):
    """An array (height, width, …) as the orientation says."""
    if turn in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _plain(image):
    """The image with 8 bits per channel, without palette and transparency."""
    mode = image.mode
    if mode[0] in 'IF':
        if mode != 'F' and (mode != 'I' or image.format in ('PNG', 'PPM')):
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))    # 16 bits
        pixels = np.array(image, np.float32)    # in no known unit: its range becomes 0 to 255
        if not np.isfinite(pixels).all():
            raise BadPicture('it has pixels that are NaN or infinite')
        pixels -= pixels.min()
        pixels *= 255 / (pixels.max() or 1)
        return Image.fromarray(pixels.astype(np.uint8))
    if mode in ('RGBA', 'RGBa', 'LA', 'La', 'PA') or 'transparency' in image.info:
        image = image.convert('RGBA')
        white = Image.new('RGB', image.size, 'white')
        white.paste(image, mask=image.getchannel('A'))
        return white
    return image if mode in ('L', 'RGB') else image.convert('L' if mode == '1' else 'RGB')


# -- folders


def walk(folder):
    """Yield the paths of the picture files in a folder and below it, sorted, each file once.

    Links are followed, but no file or folder is visited twice. Hidden files, and what is no regular
    file, are passed over.
    """
    return _Walk(folder).files(folder)


class _Walk:
    """Visits the files below a folder, each once; calls `pass_over(path, reason)` for others."""

    def __init__(self, root, pass_over=lambda path, reason: None):
        self._seen, self._around, self._pass_over = set(), set(), pass_over
        parent = os.path.dirname(os.path.realpath(root))
        while True:     # a link to one of these would bring everything that is on the disk
            self._around.add(_identity(os.stat(parent)))
            if parent == os.path.dirname(parent):
                break
            parent = os.path.dirname(parent)

    def entries(self, folder):
        """Yield (os.DirEntry, its os.stat_result), links last; neither hidden nor seen before."""
        try:
            with os.scandir(folder) as found:
                found = sorted(found, key=lambda entry: (entry.is_symlink(), entry.name))
        except OSError as error:
            self._pass_over(folder, error.strerror)
            return
        for entry in found:
            if entry.name.startswith('.'):
                continue
            try:
                status = entry.stat()
            except OSError as error:
                link = entry.is_symlink()
                self._pass_over(entry.path, 'a link to nothing' if link else error.strerror)
                continue
            identity = _identity(status)
            if identity in self._around:
                self._pass_over(entry.path, 'a link to a folder that this one lies in')
            elif identity in self._seen:
                self._pass_over(entry.path, 'a link to what was read already')
            else:
                self._seen.add(identity)
                yield entry, status

    def files(self, folder):
        """Yield the picture files in a folder and below it."""
        self._seen.add(_identity(os.stat(folder)))
        folders = [folder]
        while folders:
            below = []
            for entry, status in self.entries(folders.pop()):
                suffix = os.path.splitext(entry.name)[1].lower()
                if stat.S_ISDIR(status.st_mode):
                    below.append(entry.path)
                elif not stat.S_ISREG(status.st_mode):
                    self._pass_over(entry.path, 'no regular file')
                elif suffix in SUFFIXES:
                    yield entry.path
                else:
                    self._pass_over(entry.path, f'{suffix or "no suffix"} is not the suffix of a '
                                    'picture')
            folders += reversed(below)


def _identity(status):
    return status.st_dev, status.st_ino


# -- data sets


class Pictures:
    """Decoded pictures of classes.

    Attributes
    ----------
    images : numpy.ndarray (n, height, width, channels), uint8
    labels : numpy.ndarray (n,)
    names : list of str
        Of the classes, by label.
    files : list of str
        What each picture is called, with its class in front.
    digests : list of str
        Of the pixels of each picture.
    apart : list of str
        The classes that the data set itself sets apart for the test.
    left_out : list of dict
        What was left out: `class`, `reason`, `count`, and the `first` of them.
    """

    def __init__(self):
        self.files, self.classes, self.sources, self.apart, self.left_out = [], [], [], [], []
        self._left_out = {}

    def add(self, name, file, source):
        """One more picture, not decoded yet."""
        self.classes.append(name)
        self.files.append(file)
        self.sources.append(source)

    def leave_out(self, name, file, reason):
        """Remember what was left out."""
        row = self._left_out.get((name, reason))
        if row is None:
            row = {'class': name, 'reason': reason, 'count': 0, 'first': file}
            self._left_out[name, reason] = row
            self.left_out.append(row)
        row['count'] += 1


def load(path, shape_for, out=None, quiet=False):
    """The pictures of a folder with one sub-folder per class, of a .rec, or of an .npz file.

    Parameters
    ----------
    path : str
    shape_for : callable
        Gets channels (1 if all pictures are grey), and the medians of height and width; returns the
        channels, height and width to read them with.
    out : str, optional
        A folder for the pixels if they do not fit in the memory. They take no name there.
    quiet : bool
        Whether to show no progress bars.

    Returns
    -------
    Pictures
        Classes have two pictures or more, no two of which have the same pixels.

    Raises
    ------
    DataError
    """
    pictures = Pictures()
    try:
        if os.path.isdir(path):
            _folder(path, pictures)
        elif path.endswith('.rec'):
            _records(path, pictures)
        elif path.endswith('.npz'):
            with open(path, 'rb') as file, checkpoint.open_npz(file, path) as members:
                good = _arrays(path, members, pictures, shape_for, out)
                return _chosen(path, pictures, good)
        elif os.path.exists(path):
            raise DataError(f'{path} is neither a folder nor a .rec or an .npz file')
        else:
            raise DataError(f'cannot read {path}: there is no such file or folder')
        good = _decode(pictures, shape_for, out, quiet)
    except checkpoint.CheckpointError as error:
        raise DataError(str(error)) from None
    except OSError as error:
        raise DataError(f'cannot read {error.filename or path}: {error.strerror}') from None
    return _chosen(path, pictures, good)


def _folder(path, pictures):
    def pass_over(file, reason):
        file = os.path.relpath(file, path)
        pictures.leave_out(file.split(os.sep)[0] if os.sep in file else '', file, reason)

    visit = _Walk(path, pass_over)
    folders = [entry.path for entry, status in visit.entries(path)
               if stat.S_ISDIR(status.st_mode) or pass_over(entry.path, 'it lies in no class')]
    for folder in folders:
        name, before = os.path.basename(folder), len(pictures.files)
        for file in visit.files(folder):
            pictures.add(name, os.path.relpath(file, path), file)
        if len(pictures.files) == before:
            pictures.leave_out(name, name, 'a folder without pictures')
    if not folders:
        raise DataError(f'{path} has no sub-folders: it needs one per class')


def _records(path, pictures):
    """As python -m mxnet.tools.im2rec writes it, or insightface."""
    index = os.path.splitext(path)[0] + '.idx'
    with open(path, 'rb') as file:
        if os.fstat(file.fileno()).st_size < 8 or file.read(4) != struct.pack('<I', _RECORD):
            raise DataError(f'{path} is no RecordIO file')
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        with open(index, encoding='ascii') as file:
            offsets = {int(key): int(offset) for key, offset in map(str.split, file)}
    except FileNotFoundError:
        raise DataError(f'{index} is missing: python -m mxnet.tools.im2rec writes it with the .rec'
                        ) from None
    except ValueError:
        raise DataError(f'{index} is no index: a line must be a key and an offset') from None

    def labels(key):
        return _record(content, offsets[key])[0]

    first = min(offsets, default=None)
    classes = {}
    try:
        if first is not None and not _record(content, offsets[first])[1]:
            # insightface: the first record says which records are classes, and the record of a
            # class says which ones are its pictures.
            low, high = (int(number) for number in labels(first)[:2])
            for number in range(max(low, 0), min(high, max(offsets) + 1)):
                start, end = (int(limit) for limit in labels(number)[:2])
                classes.update((key, str(number - low)) for key in
                               range(max(start, 0), min(end, max(offsets) + 1)) if key in offsets)
    except (ValueError, KeyError, OverflowError) as error:
        raise DataError(f'cannot read {path} by {index}: the record of a class is damaged '
                        f'({error})') from None
    for key in classes or offsets:
        name = f'record {key}'
        try:
            values, _ = _record(content, offsets[key])
            of = classes.get(key) or str(int(values[0]))
        except (ValueError, OverflowError):
            pictures.leave_out('', name, 'a damaged record')
            continue
        pictures.add(of, f'{of}/{name}', (content, offsets[key]))


def _record(content, offset):
    """(labels, picture) of the record at an offset: numpy.ndarray and bytes; or ValueError."""
    parts, more = [], True
    while more:     # a record with a magic number in it is in several parts
        if not 0 <= offset <= len(content) - 8:
            raise ValueError('no such record')
        magic, length = struct.unpack_from('<II', content, offset)
        kind, length = length >> 29, length & (1 << 29) - 1
        if (magic != _RECORD or offset + 8 + length > len(content)
                or (kind in (2, 3)) != bool(parts)):
            raise ValueError('a damaged record')
        parts.append(content[offset + 8:offset + 8 + length])
        offset += 8 + (length + 3) // 4 * 4
        more = kind in (1, 2)
    record = struct.pack('<I', _RECORD).join(parts)
    if len(record) < _RECORD_HEADER.size:
        raise ValueError('a damaged record')
    flag, label, _, _ = _RECORD_HEADER.unpack_from(record)
    start = _RECORD_HEADER.size
    if 4 * flag > len(record) - start:
        raise ValueError('a damaged record')
    labels = np.frombuffer(record, '<f4', flag, start) if flag else np.array([label])
    return labels, record[start + 4 * flag:]


def _arrays(path, members, pictures, shape_for, out):
    """Decode the arrays of an .npz file, one image after the other."""
    parts = ('train_', 'test_') if 'train_images' in members else ('',)
    missing = [part + kind for part in parts for kind in ('images', 'labels')
               if part + kind not in members]
    if missing:
        raise DataError(f'{path} has no {", ".join(missing)}: it needs images and labels, it has '
                        f'{printable(", ".join(members)) or "no arrays"}')
    for part in parts:
        images, labels = members[f'{part}images'], members[f'{part}labels']
        if (images.dtype != np.uint8 or len(images.shape) not in (3, 4)
                or images.shape[3:] not in ((), (1,), (3,)) or 0 in images.shape[1:]
                or labels.shape != images.shape[:1] or labels.dtype.kind not in 'iuUS'):
            raise DataError(f'{path}: {part}images must be bytes, (n, height, width) or (n, height,'
                            f' width, 3), and {part}labels n numbers or names; got {images.dtype} '
                            f'{images.shape} and {labels.dtype} {labels.shape}')
        for row, label in enumerate(labels.read()):
            label = label.decode(errors='replace') if isinstance(label, bytes) else str(label)
            pictures.add(part + label, f'{part + label}/{part}images {row}', None)
    if len(parts) == 2:
        pictures.apart = sorted({name for name in pictures.classes if name.startswith('test_')})
    channels, *sizes = zip(*[(*members[f'{part}images'].shape[3:], 1)[:1]
                             + members[f'{part}images'].shape[1:3] for part in parts])
    channels, height, width = shape_for(max(channels), *(int(np.median(side)) for side in sizes))
    pictures.images = _room(len(pictures.files), (height, width, channels), out)
    row = 0
    for part in parts:
        for pixels in members[f'{part}images'].items():
            pixels = pixels.reshape(*pixels.shape[:2], -1)
            if pixels.shape != pictures.images.shape[1:]:
                image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])
                image = ImageOps.fit(image, (width, height), Image.BILINEAR)
                pixels = np.asarray(image.convert('L' if channels == 1 else 'RGB'))
            pictures.images[row] = pixels.reshape(height, width, channels)
            row += 1
    return np.ones(row, bool)


def _decode(pictures, shape_for, out, quiet):
    """Read all headers, then decode all pictures; returns which ones are good."""
    def source(row):
        source = pictures.sources[row]
        return source if isinstance(source, str) else io.BytesIO(_record(*source)[1])

    def header(row):
        try:
            return picture_header(source(row))
        except BadPicture as error:
            return error

    def decoded(row):
        try:
            images[row] = read_picture(source(row), (height, width), channels)
        except BadPicture as error:
            return error

    count = len(pictures.files)
    found = _each(header, np.arange(count), 'looking at pictures', quiet)
    good = np.array([not isinstance(one, BadPicture) for one in found], bool)
    sizes = np.array([one for one in found if not isinstance(one, BadPicture)]).reshape(-1, 3)
    if len(sizes):
        channels, height, width = shape_for(
            1 if sizes[:, 2].all() else 3, *(int(side) for side in np.median(sizes[:, :2], axis=0)))
        pictures.images = images = _room(count, (height, width, channels), out)
        rows = np.flatnonzero(good)
        for row, error in zip(rows, _each(decoded, rows, 'reading pictures', quiet)):
            if error:
                found[row], good[row] = error, False
    for row in np.flatnonzero(~good):
        pictures.leave_out(pictures.classes[row], pictures.files[row], str(found[row]))
    return good


def _each(function, rows, title, quiet):
    """[function(row) for row in rows], by several threads: Pillow decodes without Python's lock."""
    results = []
    with ThreadPoolExecutor(_READERS) as pool, tqdm(
            total=len(rows), desc=title, unit=' files', leave=False, disable=quiet or None) as bar:
        for start in range(0, len(rows), 256):      # Ctrl-C waits for one part only
            part = rows[start:start + 256]
            results += pool.map(function, part.tolist())
            bar.update(len(part))
    return results


def _room(count, shape, out):
    """An array for all pixels: in the memory, or if they fill half of it, in a file of OUT."""
    size = count * int(np.prod(shape))
    try:
        memory = os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    except (AttributeError, ValueError, OSError):
        memory = 2 ** 32
    if size < max(memory // 2, _IN_MEMORY) or out is None:
        return np.empty((count, *shape), np.uint8)
    with tempfile.TemporaryFile(dir=out) as file:   # has no name, so that a kill leaves nothing
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise DataError(f'{out} has no room for {size / 1e9:.1f} GB of pixels, which are more '
                            f'than half of the memory: {error.strerror}') from None
        return np.memmap(file, np.uint8, 'r+', shape=(count, *shape))


def _chosen(path, pictures, good):
    """Leave out what is there twice, and classes with one picture."""
    digests = [hashlib.sha256(pictures.images[row]).hexdigest() if good[row] else ''
               for row in range(len(good))]
    classes = {}
    for row in np.flatnonzero(good):
        classes.setdefault(pictures.classes[row], []).append(row)

    def drop(rows, reason):
        for row in rows:
            good[row] = False
            pictures.leave_out(pictures.classes[row], pictures.files[row], reason)

    first_of = {}
    for name in sorted(classes):
        content = frozenset(digests[row] for row in classes[name])
        first = first_of.setdefault(content, name)
        if first != name:
            drop(classes.pop(name), f'the same pictures as in {printable(first)}')
    owners, earlier = {}, {}
    for name in sorted(classes):
        for row in classes[name]:
            owners.setdefault(digests[row], set()).add(name)
    for name, rows in classes.items():
        for row in rows:
            if len(owners[digests[row]]) > 1:
                others = sorted(owners[digests[row]] - {name})
                drop([row], f'the same pixels are a picture of {printable(others[0])}')
            elif earlier.setdefault(digests[row], row) != row:
                drop([row], 'the same pixels are there twice')
        left = [row for row in rows if good[row]]
        if len(left) == 1:
            drop(left, 'the only picture of its class that can be used: a class needs two')
    rows = np.flatnonzero(good)
    if not len(rows):
        reasons = {row['reason'] for row in pictures.left_out}
        raise DataError(f'no class in {path} has two pictures that can be read'
                        + (f': {min(reasons)}' if len(reasons) == 1 else ''))
    for target, row in enumerate(rows):     # in place, because they can be larger than the memory
        if target != row:
            pictures.images[target] = pictures.images[row]
    pictures.images = pictures.images[:len(rows)]
    pictures.names, pictures.labels = np.unique([pictures.classes[row] for row in rows],
                                                return_inverse=True)
    pictures.names = pictures.names.tolist()
    pictures.files = [pictures.files[row] for row in rows]
    pictures.digests = [digests[row] for row in rows]
    pictures.apart = [name for name in pictures.apart if name in set(pictures.names)]
    del pictures.classes, pictures.sources
    return pictures


def left_out_lines(left_out):
    """What was left out as lines for the user: by class, or by reason if that are many classes."""
    reasons = {}
    for row in left_out:
        reasons.setdefault(row['reason'], []).append(row)
    for number, (reason, rows) in enumerate(reasons.items()):
        if number == _MOST_REASONS:     # a link to a folder of programs has any number of suffixes
            yield (f'left out files for {len(reasons) - number} more reasons: all of them are in '
                   'metrics.json')
            break
        if len(rows) > 5:
            count = sum(row['count'] for row in rows)
            yield (f'left out {count} of {len(rows)} classes: {reason}; the first is '
                   f'{printable(rows[0]["first"])}')
        else:
            for row in rows:
                of = f' of class {printable(row["class"])}' if row['class'] else ''
                yield f'left out {row["count"]}{of}: {reason}; {printable(row["first"])}'
