"""examples/recognizer/data.py: pictures as a viewer shows them, and what is left out."""
import io
import os
import re
import shutil
import struct

import data
import mxnet as mx
import numpy as np
import pytest
from patterns import encoded, patterns, write_folder
from PIL import Image, ImageOps


def read(content, size=(8, 8), channels=3):
    return data.read_picture(io.BytesIO(content), size, channels)


def saved(image, kind, **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


# -- one picture

CORNER = np.zeros((20, 30, 3), 'uint8')
CORNER[:10, :15] = 255, 0, 0      # red on the upper left, blue on the lower left
CORNER[10:, :15] = 0, 0, 255


@pytest.mark.parametrize('turn', range(1, 9))
@pytest.mark.parametrize('how', ['number', 'text', 'xmp'])
def test_orientation(turn, how):
    """As Pillow itself turns it, wherever the orientation is written."""
    image, exif = Image.fromarray(CORNER), Image.Exif()
    exif[0x0112] = turn
    content = saved(image, 'JPEG', quality=95, exif=exif.tobytes())
    with Image.open(io.BytesIO(content)) as opened:
        wanted = np.asarray(ImageOps.exif_transpose(opened))
    if how == 'text':       # EXIF data with one entry, of kind 2, with two letters
        content = saved(image, 'JPEG', quality=95, exif=b'Exif\0\0II*\0' + struct.pack(
            '<IHHHI4sI', 8, 1, 0x0112, 2, 2, b'%d' % turn, 0))
    elif how == 'xmp':
        packet = (b'http://ns.adobe.com/xap/1.0/\0'
                  b'<x:xmpmeta><rdf tiff:Orientation="%d"/></x:xmpmeta>' % turn)
        content = saved(image, 'JPEG', quality=95)
        content = (content[:2] + b'\xff\xe1' + struct.pack('>H', len(packet) + 2) + packet
                   + content[2:])
    height, width = wanted.shape[:2]
    assert data.picture_header(io.BytesIO(content)) == (height, width, False)
    got = read(content, (height, width)).astype(int)
    assert abs(got - wanted).mean() < 6


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'P', 'WEBP'])
def test_transparency_is_white(mode):
    """A green disc; what is below its transparent surroundings differs."""
    found = []
    for below in 0, (255, 0, 255), np.random.RandomState(0).randint(0, 256, (16, 16, 3)):
        pixels = np.zeros((16, 16, 4), 'uint8')
        pixels[..., :3] = below if mode != 'P' else np.mean(below)
        pixels[4:12, 4:12] = 0, 200, 0, 255
        image = Image.fromarray(pixels)
        image = image.convert('RGB').quantize(8) if mode == 'P' else image.convert(
            'LA' if mode == 'LA' else 'RGBA')
        found.append(read(saved(image, 'WEBP' if mode == 'WEBP' else 'PNG', **(
            {'transparency': image.getpixel((0, 0))} if mode == 'P' else {'lossless': True})),
            (16, 16)))
    assert (found[0][0, 0] == 255).all() and found[0][8, 8, 0] < 160
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


_DEEP = np.linspace(0, 65535, 400).astype('uint16').reshape(20, 20)


@pytest.mark.parametrize('content, wanted', [
    (saved(Image.fromarray(CORNER).convert('CMYK'), 'JPEG', quality=95),
     [(250, 5, 5), (5, 5, 250)]),
    (encoded(_DEEP), [(46, 46, 46), (209, 209, 209)]),
    (encoded(_DEEP, 'TIFF'), [(46, 46, 46), (209, 209, 209)]),
    (encoded(CORNER, 'GIF'), [(255, 0, 0), (0, 0, 255)]),
    (encoded(CORNER[..., 0] > 0), [(255, 255, 255), (0, 0, 0)]),
], ids=['CMYK', '16 bits', '16 bits of TIFF', 'GIF', '1 bit'])
def test_kinds_of_pixels(content, wanted):
    pixels = read(content).astype(int)
    for row, color in zip((1, 6), wanted):
        assert abs(pixels[row, 1] - color).max() < 25


_HEIC = b'\0\0\0\x18ftypheic\0\0\0\0mif1heic' + bytes(100)


@pytest.mark.parametrize('content, message', [
    (b'', 'no picture'), (b'hello', 'no picture'), (b'%!PS-Adobe-3.0 EPSF-3.0\n', 'no picture'),
    # Pillow could read it, as it can EPS, which it gives to another program.
    (encoded(CORNER, 'PCX'), 'no picture'),
    (encoded(CORNER, 'JPEG')[:-300], 'damaged'), (_HEIC, 'pip install pillow-heif'),
    (encoded(np.zeros((9, 9), 'float32'), 'TIFF'), 'its pixels have 32 bits'),
    (saved(Image.new('1', (9000, 9000)), 'PNG'), '9000 x 9000 pixels are out of'),
    (b'BM' + struct.pack('<IIIIiiHHIIIIII', 0, 0, 54, 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0),
     '60000 x 60000 pixels'),
], ids=['empty', 'text', 'program', 'PCX', 'truncated', 'HEIC', 'float', 'large', 'huge'])
def test_bad_picture(content, message, tmp_path):
    (tmp_path / 'a\nb.jpg').write_bytes(content)
    for file in str(tmp_path / 'a\nb.jpg'), io.BytesIO(content):
        with pytest.raises(data.BadPicture, match=message) as error:
            data.read_picture(file, (8, 8), 3)
        assert '\n' not in str(error.value)


# -- folders


def test_walk_visits_each_file_once(tmp_path):
    root = tmp_path / 'root'
    (root / 'a' / 'deep').mkdir(parents=True)
    (tmp_path / 'elsewhere').mkdir()
    for path in ('a/1.png', 'a/deep/2.JFIF', 'a/.hidden.png', 'a/notes.txt', '../elsewhere/3.png'):
        (root / path).write_bytes(b'')
    os.mkfifo(root / 'pipe.png')
    for link, target in (('a/loop', '..'), ('a/self', '.'), ('disk', '/'), ('a/again.png', '1.png'),
                         ('gone.png', 'nowhere'), ('to', '../elsewhere')):
        (root / link).symlink_to(target)
    assert [os.path.relpath(path, root) for path in data.walk(str(root))] == [
        'a/1.png', 'a/deep/2.JFIF', 'to/3.png']


def fit(channels, height, width):
    """An input of the size of the pictures."""
    return channels, height, width


def test_what_is_left_out(tmp_path):
    """A folder as folders of photographs are."""
    root = write_folder(tmp_path / 'data', 4, 3)
    others = patterns(1, 9, seed=9)[0]
    nasty = 'a\nleft out 9\x1b[2J'
    for name, content in {
            'class 00/below/nested.jfif': encoded(others[0], 'JPEG', quality=98),
            'class 00/photo.heic': _HEIC, 'class 00/notes.txt': b'',
            'class 00/damaged.jpg': encoded(others[0], 'JPEG')[:-100],
            'class 01/twice.png': (root / 'class 01' / '0003.png').read_bytes(),
            # One picture of two classes is the same.
            'class 02/shared.bmp': encoded(others[3], 'BMP'),
            'class 03/shared.png': encoded(others[3]),
            'lonely/only.png': encoded(others[2]), 'outside.png': encoded(others[1]),
            'empty/.hidden.png': b'', f'{nasty}/b\r\t.png': b''}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    shutil.copytree(root / 'class 01', root / 'copy of 01')
    pictures = data.load(str(root), fit, quiet=True)
    assert pictures.names == ['class 00', 'class 01', 'class 02', 'class 03']
    assert np.bincount(pictures.labels).tolist() == [4, 3, 4, 3]
    assert pictures.images.shape == (14, 8, 8, 1) and len(set(pictures.digests)) == 14
    found = {(row['class'], row['reason']): row['count'] for row in pictures.left_out}
    for name, reason, count in (
            ('copy of 01', 'the same pixels as a picture of class 01', 4),
            ('class 01', 'the same pixels as a picture of class 01', 1),
            ('class 03', 'the same pixels as a picture of class 02', 1),
            ('empty', 'a folder without pictures', 1), ('', 'it lies in no class', 1),
            ('lonely', 'a class needs two', 1), (nasty, 'no picture', 1),
            ('class 00', 'pillow-heif', 1), ('class 00', 'damaged', 1), ('class 00', 'suffix', 1)):
        key, = (key for key in found if key[0] == name and reason in key[1])
        assert found.pop(key) == count
    assert not found
    lines = list(data.left_out_lines(pictures.left_out))
    assert all(line.isprintable() for line in lines)       # no file name forges a line
    shown = '\n'.join(lines)
    assert "class a\\nleft out 9\\x1b[2J): no picture" in shown
    assert 'left out 5 (1 of class class 01, 4 of class copy of 01): the same pixels' in shown
    assert 'metrics.json' not in shown
    many = [{**pictures.left_out[0], 'reason': f'.{number} is no suffix'} for number in range(99)]
    assert re.match('left out files for 8. more reasons', list(data.left_out_lines(many))[-1])


# -- records and arrays


SPLIT = struct.pack('<I', 0xced7230a) * 8 + b'end'      # the magic number splits a record


def of_two(key, first, end):
    """A record with two numbers as its label: mx.recordio.pack fails on NumPy 2."""
    return struct.pack('IfQQ', 2, 0, key, 0) + np.array([first, end], 'float32').tobytes()


def write_records(path, classes, insightface=False):
    """A .rec file as im2rec writes it, or with insightface's header and class records."""
    records = mx.recordio.MXRecordIO(str(path), 'w')
    images, labels = patterns(classes, 5)
    first = int(insightface)
    if insightface:
        end = len(images) + 1
        records.write(of_two(0, end, end + classes))
        for label in range(classes):
            records.write(of_two(end + label, 5 * label + 1, 5 * label + 6))
    for key, (pixels, label) in enumerate(zip(images, labels), first):
        content = encoded(pixels) + SPLIT
        records.write(mx.recordio.pack(mx.recordio.IRHeader(0, label, key, 0), content))
    records.close()
    return path


@pytest.mark.parametrize('insightface', [False, True])
def test_records(tmp_path, insightface):
    path = write_records(tmp_path / 'train.rec', 3, insightface)
    pictures = data.load(str(path), fit, quiet=True)
    wanted, labels = patterns(3, 5)
    assert pictures.names == ['0', '1', '2'] and pictures.labels.tolist() == labels.tolist()
    np.testing.assert_array_equal(pictures.images[..., 0], wanted)
    assert not pictures.left_out
    content = bytearray(path.read_bytes())
    offset = int(pictures.files[7].split()[-1])
    assert data._record(bytes(content), offset)[1] == encoded(wanted[7]) + SPLIT
    content[offset:offset + 20] = bytes(20)
    path.write_bytes(content)
    pictures = data.load(str(path), fit, quiet=True)
    assert len(pictures.labels) == 14 and pictures.left_out[0]['count'] == 1


@pytest.mark.parametrize('size', [(8, 8), (16, 12)])
def test_arrays(tmp_path, size):
    """Colour, the classes that the file itself sets apart, and another size."""
    pixels = np.random.RandomState(0).randint(0, 255, (12, 8, 8, 3)).astype('uint8')
    np.savez_compressed(tmp_path / 'a.npz', train_images=pixels[:8],
                        train_labels=np.repeat([5, 7], 4), test_images=pixels[8:],
                        test_labels=np.repeat(['ä', 'b'], 2))
    pictures = data.load(str(tmp_path / 'a.npz'), lambda *found: (3, *size), quiet=True)
    assert pictures.names == ['test_b', 'test_ä', 'train_5', 'train_7']
    assert pictures.apart == ['test_b', 'test_ä']
    for row, file in enumerate(pictures.files):
        part, number = file.split('/')[1].split()
        source = pixels[int(number) + (8 if part == 'test_images' else 0)]
        np.testing.assert_array_equal(pictures.images[row], read(encoded(source), size))


def test_pixels_that_do_not_fit_into_memory(tmp_path, monkeypatch):
    """They go to a file in OUT that has no name."""
    monkeypatch.setattr(data, '_IN_MEMORY', 1)
    root = write_folder(tmp_path / 'data', 3, 3)
    pictures = data.load(str(root), fit, str(tmp_path), quiet=True)
    assert isinstance(pictures.images, np.memmap) and os.listdir(tmp_path) == ['data']
    np.testing.assert_array_equal(np.sort(pictures.images[..., 0], axis=None),
                                  np.sort(patterns(3, 3)[0], axis=None))


def _with(name, content):
    return lambda path: (path / name).write_bytes(content) and path / name


def _npz(savez=np.savez, **arrays):
    def make(path):
        savez(path / 'a.npz', **arrays)
        return path / 'a.npz'
    return make


@pytest.mark.parametrize('make, message', [
    (lambda path: path / 'nowhere', 'nowhere: it is neither a folder nor'),
    (lambda path: path, 'has no sub-folders'),
    (lambda path: (path / 'a').mkdir() or path, 'no class in .* has two pictures'),
    (lambda path: write_folder(path, 3, 1), 'can be read: the only picture'),
    (_with('a.txt', b'text'), 'is neither a folder nor'),
    (_with('a.rec', b'no record'), 'is no RecordIO file'),
    (_with('a.rec', struct.pack('<II', 0xced7230a, (1 << 29) - 1) + bytes(72)), 'damaged record'),
    (_with('a.npz', b'PK\x03\x04'), 'cannot read .*a.npz'),
    (_npz(pictures=np.zeros(3)), 'has no images, labels: .* it has pictures'),
    (_npz(images=np.array([None, {}]), labels=np.arange(2)), 'Object arrays'),
    (_npz(images=np.zeros((2, 8, 8)), labels=np.arange(2)), 'images must be bytes'),
    (_npz(images=np.zeros((2, 8, 8), 'uint8'), labels=np.arange(3)), 'labels n numbers'),
    (_npz(savez=np.savez_compressed, images=np.zeros((10 ** 5, 8, 8), 'uint8'),
          labels=np.zeros(10 ** 5, int)), 'cannot have 100000 different pictures in'),
], ids=lambda value: getattr(value, '__name__', value))
def test_bad_data_gets_one_line(tmp_path, make, message):
    path = make(tmp_path)
    with pytest.raises(data.DataError, match=message) as error:
        data.load(str(path), fit, quiet=True)
    assert str(error.value).isprintable()
