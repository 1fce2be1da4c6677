"""Pictures of classes: from a folder, a .rec or an .npz file to arrays at the size of a network.

Each file is decoded once. `read_picture` is the only reader, for training and for serving; it needs
NumPy and Pillow. Sizes in headers are checked before memory is allocated, and nothing is unpickled.
"""
import contextlib
import functools
import hashlib
import io
import mmap
import os
import pathlib
import re
import stat
import struct
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from checkpoint import DataError, one_line, read_npz
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
_LARGE, _one_at_a_time = 16_000_000, threading.RLock()
Image.MAX_IMAGE_PIXELS = None    # the limits are those above
# Smaller blocks come from the heap, which each thread that decodes keeps for itself.
Image.core.set_block_size(2 ** 26)
_ORIENTATION = 0x0112
# How an image with orientation 1 to 8 is turned: FLIP_LEFT_RIGHT, ROTATE_180, …
_TURNS = None, 0, 3, 1, 5, 4, 6, 2
# More bytes of pixels go to a file, which the system keeps in the memory while there is room.
_IN_MEMORY = 2 ** 30
# A picture takes at least so many bytes of an .npz file; more pictures are copies of one.
_LEAST_BYTES = 16
NO_PICTURES = 'a folder without pictures'
_MOST_REASONS = 12      # on the screen, why pictures were left out
_RECORD, _RECORD_HEADER = struct.pack('<I', 0xced7230a), struct.Struct('<IfQQ')


class BadPicture(Exception):
    """A file that gives no picture; the text is the reason, one line."""


def printable(text):
    """A text as it can stand in a line of output: what is no printable letter is escaped."""
    return ''.join(letter if letter.isprintable() else letter.encode('unicode_escape').decode()
                   for letter in str(text))


def number(low, high, kind=float):
    """The type of an option, for argparse."""
    def convert(text):
        if not low <= kind(text) <= high:
            raise ValueError(text)
        return kind(text)

    convert.__name__ = f'number, from {low:g} to {high:g}:'
    return convert


# -- one picture


def read_picture(file, size, channels):
    """The picture that a viewer shows, covering `size` and cut to it from the middle.

    `file` is a path, a binary file, or pixels; `size` is height and width; 1 channel is grey, 3 are
    RGB. Returns bytes, (height, width, channels), or raises BadPicture.
    """
    with _opened(file) as (image, turn):
        height, width = size[::-1] if turn > 4 else size
        # Decodes a large JPEG at 1/2, 1/4 or 1/8 of its size, at least twice what is needed.
        image.draft(None, (2 * width, 2 * height))
        if image.width * image.height > _MOST_DECODED:
            raise BadPicture(f'{image.width} x {image.height} pixels are too many: make it smaller')
        image = ImageOps.fit(_plain(image), (width, height), Image.BILINEAR)
        if turn > 1:
            image = image.transpose(_TURNS[turn - 1])
        return np.array(image.convert('L' if channels == 1 else 'RGB')).reshape(*size, channels)


def picture_header(file):
    """(height, width, whether it is grey) of a picture as a viewer shows it; BadPicture."""
    with _opened(file) as (image, turn):
        sides = (image.width, image.height) if turn > 4 else (image.height, image.width)
        return (*sides, image.mode in ('1', 'L', 'LA', 'La') or image.mode[0] in 'IF')


@contextlib.contextmanager
def _opened(file):
    """A context with (PIL.Image whose header was checked, its orientation from 1 to 8)."""
    start = b''
    with contextlib.ExitStack() as stack:
        try:
            if isinstance(file, np.ndarray):
                yield Image.fromarray(file), 1
                return
            if isinstance(file, (str, os.PathLike)):
                if not stat.S_ISREG(os.stat(file).st_mode):     # a pipe would wait for its writer
                    raise BadPicture('it is no regular file')
                file = stack.enter_context(open(file, 'rb'))
            most = _MOST_PIXELS[file.seek(0, os.SEEK_END) >= _SMALL_FILE]
            file.seek(0)
            start = file.read(12)
            file.seek(0)
            alone = stack.enter_context(contextlib.ExitStack())
            if start.endswith(b'WEBP'):     # takes memory already when it is opened
                alone.enter_context(_one_at_a_time)
            image = stack.enter_context(Image.open(file, formats=_formats()))
            if image.width * image.height > most:
                raise BadPicture(f'{image.width} x {image.height} pixels are out of proportion')
            if image.width * image.height <= _LARGE:
                alone.close()
            elif image.format != 'JPEG' or 'progressive' in image.info:
                alone.enter_context(_one_at_a_time)
            yield image, _orientation(image)
        except BadPicture:
            raise
        # A damaged file makes Pillow raise nearly anything, also where the caller uses the image.
        except Exception as error:
            reason = f'a damaged picture ({printable(error)[:100]})'
            if isinstance(error, UnidentifiedImageError):
                reason = ('a HEIC or AVIF picture: pip install pillow-heif, and start again; or '
                          'save it as JPEG' if start[4:].startswith(_HEIF) else
                          'no picture, or a damaged one')
            elif isinstance(error, OSError) and error.strerror:
                reason = error.strerror
            raise BadPicture(reason) from None


@functools.lru_cache(maxsize=None)
def _formats():
    """The formats that are read and that this Pillow knows."""
    with contextlib.suppress(ImportError):
        import pillow_heif
        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _orientation(image):
    """From 1, upright, to 8; some programs write the number as text, or as XMP."""
    try:
        value = image.getexif().get(_ORIENTATION)
        if value is None:
            xmp = image.info.get('xmp') or image.info.get('XML:com.adobe.xmp') or b''
            xmp = xmp if isinstance(xmp, bytes) else str(xmp).encode()
            value = re.search(rb'tiff:Orientation(?:="|>)(\d)', xmp)[1].decode()
        value = int(str(value[0] if isinstance(value, tuple) else value).strip(' \0'))
        return value if 1 <= value <= 8 else 1
    except Exception:   # damaged metadata are none
        return 1


def _plain(image):
    """The image with 8 bits per channel, without palette and transparency."""
    mode = image.mode
    if mode[0] in 'IF':
        if mode == 'F' or (mode == 'I' and image.format not in ('PNG', 'PPM')):
            raise BadPicture('its pixels have 32 bits: save it with 8 or 16')
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))    # 16 bits
    if mode in ('RGBA', 'RGBa', 'LA', 'La', 'PA') or 'transparency' in image.info:
        image = image.convert('RGBA')
        white = Image.new('RGB', image.size, 'white')
        white.paste(image, mask=image.getchannel('A'))
        return white
    return image if mode in ('L', 'RGB') else image.convert('L' if mode == '1' else 'RGB')


# -- folders


def walk(folder, pass_over=lambda path, reason: None):
    """Yield the paths of the picture files in a folder and below it, sorted, each file once.

    Links are followed, but no file or folder is visited twice. Hidden files are passed over, and
    `pass_over` is called with others.
    """
    def visited(path):
        """The status of what is visited now; None if it is not there, or was visited before."""
        try:
            status = os.stat(path)
        except OSError as error:
            pass_over(path, 'a link to nothing' if os.path.islink(path) else error.strerror)
            return None
        if (status.st_dev, status.st_ino) in seen:
            pass_over(path, 'a link to what is read elsewhere, or to a folder above')
            return None
        seen.add((status.st_dev, status.st_ino))
        return status

    seen, top = set(), pathlib.Path(os.path.realpath(folder))
    for one in (top, *top.parents):     # a link to one above would bring all that is on the disk
        visited(one)
    for place, folders, files in os.walk(folder, followlinks=True, onerror=lambda error: pass_over(
            error.filename, error.strerror)):
        for names in folders, files:
            names[:] = sorted((name for name in names if not name.startswith('.')), key=lambda name:
                              (os.path.islink(os.path.join(place, name)), name))
        folders[:] = [name for name in folders if visited(os.path.join(place, name))]
        for path in (os.path.join(place, name) for name in files):
            suffix, status = os.path.splitext(path)[1].lower(), visited(path)
            if status and not stat.S_ISREG(status.st_mode):
                pass_over(path, 'no regular file')
            elif status and suffix not in SUFFIXES:
                pass_over(path, f'{suffix or "no suffix"} is not the suffix of a picture')
            elif status:
                yield path


# -- data sets: what reads one yields (class, what the picture is called, where its pixels are), and
# calls leave_out(class, file, reason)


class Pictures(NamedTuple):
    """Decoded pictures of classes."""
    images: np.ndarray      # (n, height, width, channels), uint8
    labels: np.ndarray      # (n,)
    names: list             # of the classes, by label
    files: list             # what each picture is called: its class stands in front
    digests: list           # of the pixels of each
    apart: list             # the classes that the data set itself sets apart for the test
    left_out: list          # a dict per class and reason: these, `count`, and the `first` file


def load(path, shape_for, out=None, quiet=False):
    """The Pictures of a folder with one sub-folder per class, of a .rec, or of an .npz file.

    `shape_for` gets channels (1 if all pictures are grey), and the medians of height and width; it
    returns the channels, height and width to read them with. A folder `out` gets the pixels if they
    are many; they take no name there. Classes have two pictures or more, no two the same.
    """
    left_out = {}

    def leave_out(name, file, reason):
        row = {'class': name, 'reason': reason, 'count': 0, 'first': file}
        left_out.setdefault((name, reason), row)['count'] += 1

    read = {'.rec': _records, '.npz': _arrays}.get(os.path.splitext(path)[1])
    read = in_folder if os.path.isdir(path) else read
    if not read:
        raise DataError(f'cannot read {path}: it is neither a folder nor a .rec or .npz file')
    with one_line(f'read {path}'):
        found = list(read(path, leave_out))
        images, rows = _decoded(found, shape_for, out, quiet, leave_out)
    digests, first = {}, {}
    for row in rows:
        name, file, _ = found[row]
        digests[row] = hashlib.sha256(images[row]).hexdigest()
        other = first.setdefault(digests[row], row)
        if other != row:
            leave_out(name, file, 'the same pixels as a picture of ' + printable(found[other][0]))
    counts = Counter(found[row][0] for row in first.values())
    rows = [row for row in first.values() if counts[found[row][0]] > 1]
    for name, file, _ in (found[row] for row in first.values()):
        if counts[name] == 1:
            leave_out(name, file, 'the only picture of its class that can be used: a class needs '
                      'two')
    left_out = list(left_out.values())
    if not rows:
        reasons = {row['reason'] for row in left_out}
        raise DataError(f'no class in {path} has two pictures that can be read'
                        + (f': {min(reasons)}' if len(reasons) == 1 else ''))
    for target, row in enumerate(rows):     # in place: they can be larger than the memory
        if target != row:
            images[target] = images[row]
    names, labels = np.unique([found[row][0] for row in rows], return_inverse=True)
    apart = [name for name in names.tolist() if read is _arrays and name.startswith('test_')
             and names[-1].startswith('train_')]
    return Pictures(images[:len(rows)], labels, names.tolist(), [found[row][1] for row in rows],
                    [digests[row] for row in rows], apart, left_out)


def in_folder(path, leave_out):
    """The pictures in a folder with one sub-folder per class."""
    def pass_over(file, reason):
        file = os.path.relpath(file, path)
        leave_out(os.path.dirname(file).split(os.sep)[0], file, reason)

    with one_line(f'read {path}'), os.scandir(path) as found:
        empty = {entry.name for entry in found
                 if entry.is_dir() and not entry.name.startswith('.')}
    if not empty:
        raise DataError(f'{path} has no sub-folders: it needs one per class')
    for source in walk(path, pass_over):
        file = os.path.relpath(source, path)
        if os.path.dirname(file):
            empty.discard(file.split(os.sep)[0])
            yield file.split(os.sep)[0], file, source
        else:
            pass_over(source, 'it lies in no class')
    for name in sorted(empty):
        leave_out(name, name, NO_PICTURES)


def _records(path, leave_out):
    """Those of a .rec file, as python -m mxnet.tools.im2rec writes it, or insightface."""
    with open(path, 'rb') as file:
        if file.read(4) != _RECORD:
            raise DataError(f'{path} is no RecordIO file')
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    offset, damaged = 0, False
    while 0 <= offset < len(content):
        try:
            label, picture, end = _record(content, offset)
            if picture:    # insightface's records of classes have no picture
                yield label, f'{label}/record at byte {offset}', (content, offset)
            damaged = False
        except (ValueError, OverflowError, struct.error):
            if not damaged:
                leave_out('', f'record at byte {offset}', 'a damaged record')
            damaged, end = True, content.find(_RECORD, offset + 1)      # goes on with the next one
        offset = end


def _record(content, offset):
    """(label, picture, end) of the record at an offset; or ValueError."""
    parts, kind = [], None
    while kind not in (0, 3):   # a record with a magic number in it is in several parts
        magic, length = struct.unpack_from('<4sI', content, offset)
        kind, length = length >> 29, length & (1 << 29) - 1
        parts.append(content[offset + 8:offset + 8 + length])
        if magic != _RECORD or len(parts[-1]) < length or (kind in (2, 3)) != (len(parts) > 1):
            raise ValueError('a damaged record')
        offset += 8 + (length + 3) // 4 * 4
    record = _RECORD.join(parts)
    flag, label, *_ = _RECORD_HEADER.unpack_from(record)
    start = _RECORD_HEADER.size
    labels = np.frombuffer(record, '<f4', flag, start) if flag else [label]
    return str(int(labels[0])), record[start + 4 * flag:], offset


def _arrays(path, leave_out):
    """Those of an .npz file."""
    with open(path, 'rb') as file:
        arrays, size = read_npz(file, path), file.seek(0, os.SEEK_END)
    parts = ('train_', 'test_') if 'train_images' in arrays else ('',)
    missing = [part + kind for part in parts for kind in ('images', 'labels')
               if part + kind not in arrays]
    if missing:
        raise DataError(f'{path} has no {", ".join(missing)}: it needs images and labels, it has '
                        f'{printable(", ".join(arrays)) or "no arrays"}')
    for part in parts:
        images, labels = arrays[f'{part}images'], arrays[f'{part}labels']
        if (images.dtype != np.uint8 or images.ndim not in (3, 4)
                or images.shape[3:] not in ((), (1,), (3,)) or 0 in images.shape[1:]
                or labels.shape != images.shape[:1] or labels.dtype.kind not in 'iuUS'):
            raise DataError(f'{path}: {part}images must be bytes, (n, height, width) or (n, height,'
                            f' width, 3), and {part}labels n numbers or names; got {images.dtype} '
                            f'{images.shape} and {labels.dtype} {labels.shape}')
        if _LEAST_BYTES * len(labels) > size:
            raise DataError(f'{path} cannot have {len(labels)} different pictures in {size} bytes')
        images = images[..., 0] if images.shape[3:] == (1,) else images
        for row, label in enumerate(labels.tolist()):
            label = label.decode(errors='replace') if isinstance(label, bytes) else str(label)
            yield part + label, f'{part + label}/{part}images {row}', images[row]


def each(function, items, title, quiet, batch=256):
    """Yield [function(item), …] of batches, by threads: Pillow decodes without Python's lock."""
    with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(
            total=len(items), desc=title, unit=' pictures', leave=False,
            disable=quiet or None) as bar:      # None: where stderr is no terminal
        for start in range(0, len(items), batch):       # Ctrl-C waits for one batch only
            yield list(pool.map(function, items[start:start + batch]))
            bar.update(min(batch, len(items) - start))


def _decoded(found, shape_for, out, quiet, leave_out):
    """(pixels, rows of what was found that have some): reads all headers, then all pictures."""
    def of_each(function, rows, title):
        """{row: function(its source, row)} of the rows whose pictures can be read."""
        def of(row):
            source = found[row][2]
            try:
                return function(io.BytesIO(_record(*source)[1]) if isinstance(source, tuple)
                                else source, row)
            except BadPicture as error:
                return error

        results = [one for part in each(of, rows, title, quiet) for one in part]
        for row, error in zip(rows, results):
            if isinstance(error, BadPicture):
                leave_out(*found[row][:2], str(error))
        return {row: one for row, one in zip(rows, results) if not isinstance(one, BadPicture)}

    def decode(source, row):
        images[row] = read_picture(source, (height, width), channels)

    headers = of_each(lambda source, _: picture_header(source), range(len(found)),
                      'looking at pictures')
    if not headers:
        return None, []
    *sides, grey = zip(*headers.values())
    channels, height, width = shape_for(
        1 if all(grey) else 3, *np.median(sides, axis=1).astype(int).tolist())
    images = _room((len(found), height, width, channels), out)
    return images, list(of_each(decode, list(headers), 'reading pictures'))


def _room(shape, out):
    """An array for all pixels: in the memory, or in a file of OUT without a name."""
    size = int(np.prod(shape, dtype=float))
    if size < _IN_MEMORY or out is None:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile(dir=out) as file:
        try:
            if hasattr(os, 'posix_fallocate'):      # else a full disk ends the program later
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise DataError(f'{out} has no room for {size / 1e9:.1f} GB of pixels: '
                            f'{error.strerror}') from None
        return np.memmap(file, np.uint8, 'w+', shape=shape)


def left_out_lines(left_out):
    """What was left out as lines for the user: one per reason, with classes if they are few."""
    reasons = {}
    for row in left_out:
        reasons.setdefault(row['reason'], []).append(row)
    for reason, rows in list(reasons.items())[:_MOST_REASONS]:
        count, of = sum(row['count'] for row in rows), f' of {len(rows)} classes'
        if len(rows) <= 5:
            of = ', '.join(f'{row["count"]} of class {printable(row["class"])}'
                           for row in rows if row['class'])
            of = f' ({of})' if of else ''
        yield f'left out {count}{of}: {reason}; the first is {printable(rows[0]["first"])}'
    if len(reasons) > _MOST_REASONS:    # a folder of programs has any number of suffixes
        yield (f'left out files for {len(reasons) - _MOST_REASONS} more reasons: all of them are '
               'in metrics.json')
