"""examples/recognize.py: enrolling, identifying and verifying with a small network."""
import io
import json
import os
import shutil
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest
import recognize
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
from export_onnx import export

SCRIPT = os.path.abspath(recognize.__file__)
# The digits that the network learns, those that are enrolled, and those that stay strangers.
TRAINED, ENROLLED, STRANGERS = range(7), (0, 4, 6, 7), (8, 9)
THRESHOLDS = {'euclidean': {'0.01': 4.2, '0.001': 3.7}, 'cosine': {'0.01': 0.35, '0.001': 0.3}}

# Runs the script as a program in which some modules cannot be imported.
WITHOUT = '''
import runpy, sys
sys.modules.update(dict.fromkeys(sys.argv.pop(1).split(',')))
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name='__main__')
'''


@pytest.fixture(name='layer', scope='module')
def make_layer():
    """Weight and bias that separate the digits trained on: x → W (x / 16) + b."""
    digits = load_digits()
    mine = np.isin(digits.target, TRAINED)
    lda = LinearDiscriminantAnalysis(solver='svd', n_components=6).fit(
        digits.data[mine], digits.target[mine])
    weight = (lda.scalings_[:, :6] * 16).T.astype('float32')
    return weight, -(weight / 16) @ lda.xbar_.astype('float32')


def write_out(folder, weight, bias, distance):
    """What train_images.py leaves, of one layer after a scaling of the pixels."""
    os.makedirs(folder)
    embedding = mx.sym.FullyConnected(mx.sym.var('data') / 240., num_hidden=len(weight),
                                      flatten=True, name='embedding')
    params = {'embedding_weight': mx.nd.array(weight), 'embedding_bias': mx.nd.array(bias)}
    mx.model.save_checkpoint(f'{folder}/embedding', 0, embedding, params, {})
    export(embedding, params, [(1, 8, 8)], f'{folder}/embedding.onnx')
    with open(f'{folder}/recognizer.json', 'w', encoding='utf-8') as file:
        json.dump({'input': [1, 8, 8], 'resize': 'shorter side, center crop', 'distance': distance,
                   'embedding_size': len(weight), 'thresholds': THRESHOLDS[distance],
                   'network': '0123456789abcdef'}, file)
    return str(folder)


def change(out, **settings):
    """Change recognizer.json."""
    path = os.path.join(out, 'recognizer.json')
    with open(path, encoding='utf-8') as file:
        settings = {**json.load(file), **settings}
    with open(path, 'w', encoding='utf-8') as file:
        json.dump(settings, file)


def write_digits(folder, digits, first, last, per_class=True):
    """Images number `first` to `last` of each of some digits as PNG files; returns the folder."""
    images, labels = load_digits(return_X_y=True)
    for digit in digits:
        mine = os.path.join(folder, f'digit {digit}') if per_class else str(folder)
        os.makedirs(mine, exist_ok=True)
        for number, image in enumerate(images[labels == digit][first:last]):
            Image.fromarray((image.reshape(8, 8) * 15).astype('uint8')).save(
                os.path.join(mine, f'{digit} {number:03}.png'))
    return str(folder)


@pytest.fixture(name='made', scope='module')
def make_folders(layer, tmp_path_factory):
    """What every test may copy: an OUT per distance, a gallery, and images to identify."""
    folder = tmp_path_factory.mktemp('recognize')
    for distance in THRESHOLDS:
        write_out(folder / distance, *layer, distance)
    write_digits(folder / 'gallery', ENROLLED, 0, 5)
    write_digits(folder / 'images', (*ENROLLED, *STRANGERS), 5, 30)
    return folder


@pytest.fixture(name='out', params=list(THRESHOLDS))
def copy_out(request, made, tmp_path):
    return shutil.copytree(str(made / request.param), str(tmp_path / request.param))


@pytest.fixture(name='euclidean')
def copy_euclidean(made, tmp_path):
    return shutil.copytree(str(made / 'euclidean'), str(tmp_path / 'euclidean'))


@pytest.fixture(name='run')
def run_in_process(capsys):
    """Run a command: (exit status, lines of the answer, lines of stderr)."""
    def run(*arguments):
        capsys.readouterr()
        status = recognize.main([str(argument) for argument in arguments])
        answer, errors = capsys.readouterr()
        return status, answer.splitlines(), errors.splitlines()
    return run


def run_without(modules, *arguments):
    """Run a command as a program that cannot import `modules`, far from the package."""
    return subprocess.run([sys.executable, '-c', WITHOUT, modules, SCRIPT, *map(str, arguments)],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, timeout=120,
                          cwd=os.path.dirname(str(arguments[1])), universal_newlines=True)


class Naive:
    """Number by number: embeddings, means, distances of the digits' files."""

    def __init__(self, layer, distance):
        self.weight, self.bias = (array.astype(float).tolist() for array in layer)
        self.distance = distance

    def embed(self, path):
        with Image.open(path) as image:
            pixels = [value / 240 for value in np.asarray(image).ravel().tolist()]
        return self.scale([sum(w * x for w, x in zip(row, pixels)) + b
                           for row, b in zip(self.weight, self.bias)])

    def scale(self, vector):
        length = sum(value ** 2 for value in vector) ** 0.5 if self.distance == 'cosine' else 1
        return [value / length for value in vector]

    def mean(self, folder):
        embeddings = [self.embed(entry.path) for entry in os.scandir(folder)]
        return self.scale([sum(values) / len(values) for values in zip(*embeddings)])

    def between(self, one, other):
        if self.distance == 'cosine':
            return 1 - sum(a * b for a, b in zip(one, other))
        return sum((a - b) ** 2 for a, b in zip(one, other)) ** 0.5

    def identify(self, path, gallery, threshold):
        distance, name = min((self.between(self.embed(path), self.mean(entry.path)), entry.name)
                             for entry in os.scandir(gallery))
        return name if distance < threshold else 'unknown', distance


def answers(lines):
    """Lines of identify as {path: (name, distance)}, in their order."""
    return {path: (name, float(distance)) for path, name, distance
            in (line.split('\t') for line in lines)}


@pytest.mark.parametrize('backend', ['onnx', 'mxnet'])
def test_identify_finds_what_a_naive_search_finds(out, made, layer, run, backend):
    distance = os.path.basename(out)
    status, said, errors = run('enrol', out, made / 'gallery', '--backend', backend)
    names = [f'digit {digit}' for digit in ENROLLED]
    assert (status, said, errors) == (0, [f'enrolled\t{name}\t5' for name in names], [])
    naive = Naive(layer, distance)
    for far, threshold in THRESHOLDS[distance].items():
        status, said, errors = run('identify', out, made / 'images', '--backend', backend,
                                   '--far', far)
        assert (status, errors) == (0, [])
        found = answers(said)
        assert list(found) == sorted(found) and len(found) == 25 * 6
        for path, (name, apart) in found.items():
            expected = naive.identify(path, made / 'gallery', threshold)
            assert name == expected[0]
            assert apart == pytest.approx(expected[1], rel=1e-4, abs=1e-5)
    # Nearly all known images are right or rejected, and most strangers are rejected.
    digit_of = {path: f'digit {os.path.basename(path)[0]}' for path in found}
    right = [name == digit_of[path] for path, (name, _) in found.items()
             if digit_of[path] in names]
    rejected = [name == 'unknown' for path, (name, _) in found.items()
                if digit_of[path] not in names]
    assert np.mean(right) > 0.7 and np.mean(rejected) > 0.7


@pytest.mark.parametrize('backend', ['onnx', 'mxnet'])
def test_verify(out, made, layer, run, backend):
    naive = Naive(layer, os.path.basename(out))
    threshold = THRESHOLDS[naive.distance]['0.01']
    paths = recognize.image_files(str(made / 'images'), '**')[::11]
    seen = set()
    for one in paths[:4]:
        for other in paths:
            status, (line,), errors = run('verify', out, one, other, '--backend', backend)
            expected = naive.between(naive.embed(one), naive.embed(other))
            word, apart = line.split('\t')
            assert (status, errors) == (0, [])
            assert word == ('same' if expected < threshold else 'different')
            assert float(apart) == pytest.approx(expected, rel=1e-4, abs=1e-5)
            seen.add(word)
    assert seen == {'same', 'different'}
    assert run('verify', out, paths[0], paths[0], '--threshold', 0)[1][0].startswith('different')
    assert run('verify', out, *paths[:2], '--threshold', 'inf')[1][0].startswith('same')


def test_onnx_runtime_needs_neither_mxnet_nor_the_package(euclidean, made, run):
    run('enrol', euclidean, made / 'gallery')
    _, expected, _ = run('identify', euclidean, made / 'images')
    os.remove(os.path.join(euclidean, 'gallery.npz'))
    for arguments in (('enrol', euclidean, made / 'gallery'),
                      ('identify', euclidean, made / 'images')):
        done = run_without('mxnet,center_loss_op', *arguments)
        assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.splitlines() == expected


def test_mxnet_where_onnx_runtime_is_missing(euclidean, made, run):
    run('enrol', euclidean, made / 'gallery')
    _, expected, _ = run('identify', euclidean, made / 'images')
    done = run_without('onnxruntime', 'identify', euclidean, made / 'images')
    assert (done.returncode, done.stderr) == (0, '')
    found, expected = answers(done.stdout.splitlines()), answers(expected)
    assert list(found) == list(expected)
    for path, (name, distance) in expected.items():
        assert found[path] == (name, pytest.approx(distance, rel=1e-4))


def test_classes_are_added_without_the_images_of_the_first(euclidean, tmp_path, run):
    first = write_digits(tmp_path / 'first', [5, 6], 0, 5)
    run('enrol', euclidean, first)
    before = recognize.read_gallery(recognize.Network(euclidean))
    shutil.rmtree(first)
    status, said, _ = run('enrol', euclidean, write_digits(tmp_path / 'second', [7], 0, 5))
    assert (status, said) == (0, ['enrolled\tdigit 7\t5'])
    after = recognize.read_gallery(recognize.Network(euclidean))
    assert list(after) == ['digit 5', 'digit 6', 'digit 7']
    for name, (mean, count) in before.items():
        np.testing.assert_array_equal(after[name][0], mean)
        assert after[name][1] == count == 5


def test_a_class_that_is_enrolled_again_is_replaced(out, layer, tmp_path, run):
    naive = Naive(layer, os.path.basename(out))
    run('enrol', out, write_digits(tmp_path / 'first', [5, 6], 0, 5))
    second = write_digits(tmp_path / 'second', [6, 7], 5, 8)
    assert run('enrol', out, second)[1] == ['replaced\tdigit 6\t3', 'enrolled\tdigit 7\t3']
    gallery = recognize.read_gallery(recognize.Network(out))
    assert [count for _, count in gallery.values()] == [5, 3, 3]
    for name, folder in ('digit 5', 'first'), ('digit 6', 'second'), ('digit 7', 'second'):
        expected = naive.mean(tmp_path / folder / name)
        np.testing.assert_allclose(gallery[name][0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('failing', ['replace', 'fsync'])
def test_a_gallery_that_cannot_be_written_stays(euclidean, made, tmp_path, run, monkeypatch,
                                                failing):
    run('enrol', euclidean, made / 'gallery')
    path = os.path.join(euclidean, 'gallery.npz')
    with open(path, 'rb') as file:
        before = file.read()

    def full(*_):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, failing, full)
    more = write_digits(tmp_path / 'more', [0], 0, 2)
    assert run('enrol', euclidean, more) == (
        1, [], [f'recognize.py: error: cannot write {path}: No space left on device'])
    with open(path, 'rb') as file:
        assert file.read() == before


def damage(folder):
    """Files that are no images, or only parts of some: {name: what is said about it}."""
    os.makedirs(folder, exist_ok=True)
    whole = io.BytesIO()
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64), 'uint8')).save(whole, 'JPEG')
    postscript = io.BytesIO()
    Image.new('L', (8, 8)).save(postscript, 'EPS')
    contents = {'0 empty.png': b'', '7 cut.jpg': whole.getvalue()[:-900],
                '8 text.png': b'no image\n' * 99, '9 program.png': postscript.getvalue()}
    for name, content in contents.items():
        with open(os.path.join(folder, name), 'wb') as file:
            file.write(content)
    return list(contents)


def test_damaged_images_have_their_lines_and_the_others_their_answers(
        euclidean, made, tmp_path, run, monkeypatch):
    run('enrol', euclidean, made / 'gallery')
    folder = write_digits(tmp_path / 'mixed', [5, 8], 0, 4, per_class=False)
    whole = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    _, expected, _ = run('identify', euclidean, *whole)
    bad = [os.path.join(folder, name) for name in damage(folder)]
    bad.append(os.path.join(folder, 'missing.png'))
    for batch in 64, 2, 1:  # batches with and without damaged images, and of them alone
        monkeypatch.setattr(recognize, 'BATCH', batch)
        status, said, errors = run('identify', euclidean, *sorted(whole + bad))
        assert (status, said) == (1, expected)
        assert [line.split(': ')[0] for line in errors] == sorted(bad)
        assert all('no image, or a damaged one' in line for line in errors[:-1])
        assert errors[-1].endswith(': No such file or directory')
    assert run('verify', euclidean, whole[0], bad[0])[:2] == (1, [])


def test_enrolling_leaves_out_damaged_images(euclidean, layer, tmp_path, run):
    folder = write_digits(tmp_path / 'gallery', [5, 6], 0, 3)
    expected = Naive(layer, 'euclidean').mean(os.path.join(folder, 'digit 5'))
    bad = [*((os.path.join(folder, 'digit 5', name)) for name in damage(folder + '/digit 5')),
           *((os.path.join(folder, 'digit 7', name)) for name in damage(folder + '/digit 7'))]
    os.makedirs(os.path.join(folder, 'digit 8'))
    status, said, errors = run('enrol', euclidean, folder)
    assert (status, said) == (1, ['enrolled\tdigit 5\t3', 'enrolled\tdigit 6\t3'])
    assert [line.split(': ')[0] for line in errors] == [os.path.join(folder, 'digit 8', ''), *bad]
    mean, _ = recognize.read_gallery(recognize.Network(euclidean))['digit 5']
    np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-5)


def nothing(*_):
    """The state of OUT after training and enrolling."""


def gallery_of_another_network(out, tmp_path):
    change(out, network='fedcba9876543210')


def remove(*names):
    return lambda out, tmp_path: [os.remove(os.path.join(out, name)) for name in names]


def overwrite(name, content=b'damaged'):
    def write(out, tmp_path):
        with open(os.path.join(out, name), 'wb') as file:
            file.write(content)
    return write


def no_threshold(out, tmp_path):
    change(out, thresholds={'0.01': None, '0.001': None})


def other_resize(out, tmp_path):
    change(out, resize='squeezed')


def folder_of_text(out, tmp_path):
    (tmp_path / 'empty' / 'some class').mkdir(parents=True)
    (tmp_path / 'empty' / 'notes.txt').write_text('nothing')
    (tmp_path / 'empty' / '.hidden.png').write_text('nothing')


def folder_of_damaged(out, tmp_path):
    damage(tmp_path / 'empty' / 'some class')


def called(name):
    return lambda out, tmp_path: write_digits(tmp_path / 'empty', [5], 0, 1) and os.rename(
        tmp_path / 'empty' / 'digit 5', tmp_path / 'empty' / name)


@pytest.mark.parametrize('command, prepare, message', [
    ('identify nowhere IMAGES', nothing, 'nowhere has no recognizer.json'),
    ('identify OUT IMAGES', remove('recognizer.json'), '{OUT} has no recognizer.json'),
    ('identify OUT IMAGES', overwrite('recognizer.json'), 'cannot load {OUT}/recognizer.json'),
    ('identify OUT IMAGES', overwrite('recognizer.json', b'{}'), "KeyError: 'resize'"),
    ('identify OUT IMAGES', other_resize, 'another version of train_images.py'),
    ('identify OUT IMAGES --backend onnx', remove('embedding.onnx'), '{OUT} has no embedding.onnx'),
    ('identify OUT IMAGES --backend onnx', overwrite('embedding.onnx'),
     'cannot load {OUT}/embedding.onnx'),
    ('identify OUT IMAGES --backend mxnet', remove('embedding-symbol.json'),
     '{OUT} has no embedding-symbol.json'),
    ('identify OUT IMAGES --backend mxnet', remove('embedding-0000.params'),
     '{OUT} has no embedding-0000.params'),
    ('identify OUT IMAGES --backend mxnet', overwrite('embedding-symbol.json'),
     'cannot load {OUT}/embedding-symbol.json'),
    ('identify OUT IMAGES', remove('gallery.npz'), 'nothing is enrolled yet'),
    ('identify OUT IMAGES', overwrite('gallery.npz'), 'cannot load {OUT}/gallery.npz'),
    ('enrol OUT GALLERY', overwrite('gallery.npz'), 'cannot load {OUT}/gallery.npz'),
    ('identify OUT IMAGES', gallery_of_another_network,
     'another network (0123456789abcdef, not fedcba9876543210): remove it and enrol again'),
    ('enrol OUT GALLERY', gallery_of_another_network, 'remove it and enrol again'),
    ('identify OUT IMAGES', no_threshold, 'too few classes to find it; use --threshold NUMBER'),
    ('verify OUT A B', no_threshold, 'too few classes to find it; use --threshold NUMBER'),
    ('identify OUT IMAGES --far 0.05', nothing, 'use 0.01 or 0.001, or --threshold NUMBER'),
    ('verify OUT A B --far nan', nothing, 'no threshold for --far nan'),
    ('identify OUT EMPTY', folder_of_text, 'no images in {EMPTY}'),
    ('enrol OUT EMPTY', folder_of_text, '{EMPTY} has no sub-folders with images'),
    ('enrol OUT nowhere', nothing, 'nowhere has no sub-folders with images'),
    ('enrol OUT EMPTY', folder_of_damaged, 'no image in {EMPTY} can be read'),
    ('enrol OUT EMPTY', called('unknown'), "a class cannot have the name 'unknown'"),
    ('enrol OUT EMPTY', called('a\tb'), r"a class cannot have the name 'a\tb'"),
])
def test_bad_input_gets_one_line(euclidean, made, tmp_path, run, command, prepare, message):
    run('enrol', euclidean, made / 'gallery')
    prepare(euclidean, tmp_path)
    images = recognize.image_files(str(made / 'images'), '**')
    places = {'OUT': euclidean, 'IMAGES': made / 'images', 'GALLERY': made / 'gallery',
              'EMPTY': tmp_path / 'empty', 'A': images[0], 'B': images[1]}
    status, said, errors = run(*(places.get(word, word) for word in command.split()))
    assert (status, said) == (1, [])
    assert errors[-1].startswith('recognize.py: error: ') and message.format(**places) in errors[-1]
    # Before it only the images and folders that could not be read.
    assert all(line.startswith(str(tmp_path / 'empty')) for line in errors[:-1])


def test_a_missing_library_is_named(euclidean, made):
    for modules, backend, missing in (('onnxruntime,mxnet', (), 'onnxruntime'),
                                      ('mxnet,center_loss_op', ('--backend', 'mxnet'), 'mxnet')):
        done = run_without(modules, 'enrol', euclidean, made / 'gallery', *backend)
        assert done.returncode == 1 and done.stderr.count('\n') == 1
        assert 'ModuleNotFoundError' in done.stderr and missing in done.stderr


def test_a_progress_bar_on_a_terminal_for_many_images(euclidean, made, run, monkeypatch):
    run('enrol', euclidean, made / 'gallery')
    images = recognize.image_files(str(made / 'images'), '**')
    for count, terminal, shown in (70, True, True), (60, True, False), (70, False, False):
        stderr = io.StringIO()
        stderr.isatty = lambda terminal=terminal: terminal
        monkeypatch.setattr(sys, 'stderr', stderr)
        status, said, _ = run('identify', euclidean, *images[:count])
        assert (status, len(answers(said))) == (0, count)
        assert bool(stderr.getvalue()) == ('/70' in stderr.getvalue()) == shown


@pytest.mark.skipif(sys.platform == 'win32', reason='file names and pipes of POSIX')
def test_any_file_name_and_a_reader_that_leaves(euclidean, made, tmp_path, run):
    run('enrol', euclidean, made / 'gallery')
    folder = os.fsencode(str(tmp_path / 'odd'))
    os.makedirs(folder)
    shutil.copy(recognize.image_files(str(made / 'images'), '**')[0], folder + b'/\xff [a]*.png')
    done = subprocess.run(f'"{sys.executable}" "{SCRIPT}" identify {euclidean} {tmp_path}/odd; '
                          f'"{sys.executable}" "{SCRIPT}" identify {euclidean} {made}/images '
                          '| head -n 1', shell=True, stdout=subprocess.PIPE, timeout=120,
                          stderr=subprocess.PIPE, check=True)
    assert done.stdout.startswith(folder + b'/\xff [a]*.png\tdigit 0\t')
    assert (done.stdout.count(b'\n'), done.stderr) == (2, b'')


def pattern(height, width, channels=3):
    """A smooth picture in which no two corners are the same."""
    rows, columns = np.mgrid[:height, :width]
    picture = np.stack([255 * rows / height, 255 * columns / width, 128 + 0 * rows], axis=2)
    return picture[..., :channels].astype('uint8')


def saved(picture, kind='PNG', **options):
    file = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(
        file, kind, **options)
    return io.BytesIO(file.getvalue())


def difference(pixels, picture):
    return abs(pixels.transpose(1, 2, 0).astype(float) - picture).max()


def test_pixels_are_kept_where_the_size_is_right():
    picture = pattern(20, 30)
    loaded = recognize.load_image(saved(picture), (3, 20, 30))
    assert loaded.dtype == 'uint8' and loaded.shape == (3, 20, 30)
    np.testing.assert_array_equal(loaded.transpose(1, 2, 0), picture)


def test_the_shorter_side_fits_and_the_center_stays():
    wide = np.full((40, 120, 3), 9, 'uint8')
    wide[:, 40:80] = pattern(40, 40)
    tall = wide.transpose(1, 0, 2)
    for picture, middle in (wide, wide[:, 40:80]), (tall, tall[40:80]):
        loaded = recognize.load_image(saved(picture), (3, 20, 20))
        # The mean of two pixels by two, except that the filter reaches over edges.
        expected = middle.reshape(20, 2, 20, 2, 3).mean(axis=(1, 3))
        assert difference(loaded[:, 1:-1, 1:-1], expected[1:-1, 1:-1]) < 2
    enlarged = recognize.load_image(saved(pattern(10, 10)), (3, 40, 20))
    assert enlarged.shape == (3, 40, 20)
    # Rows 0 to 9 of 10 are stretched over 40, columns 2.5 to 7.5 over 20.
    assert abs(enlarged[:, 20, 10].astype(int) - 120).max() < 10
    assert (enlarged[1].min(), enlarged[1].max()) == (pytest.approx(60, abs=10),
                                                      pytest.approx(180, abs=10))


@pytest.mark.parametrize('orientation, turned', [
    (1, lambda p: p), (3, lambda p: p[::-1, ::-1]), (6, lambda p: np.rot90(p, -1)),
    (8, np.rot90), (2, lambda p: p[:, ::-1])])
def test_the_camera_is_turned_back(orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = pattern(64, 96)
    expected = turned(picture)
    loaded = recognize.load_image(saved(picture, 'JPEG', exif=exif.tobytes(), quality=98),
                                  (3, *expected.shape[:2]))
    assert difference(loaded, expected) < 12


@pytest.mark.parametrize('mode', ['L', 'RGB', 'RGBA', 'P', 'CMYK', 'LA', '1', 'I;16', 'F'])
def test_grey_and_colour(mode):
    grey = Image.fromarray(pattern(32, 32, 1)[..., 0])
    if mode in ('I;16', 'F'):
        deep = np.asarray(grey).astype('uint16' if mode == 'I;16' else 'float32') * 200
        file = saved(deep, 'PNG' if mode == 'I;16' else 'TIFF')
        grey = Image.fromarray((np.asarray(grey) * (255 / np.asarray(grey).max())).astype('uint8'))
    else:
        file = saved(grey.convert('RGB').convert(mode), 'TIFF') if mode == 'CMYK' else saved(
            grey.convert(mode))
    tolerance = 255 if mode == '1' else 6
    for channels in 1, 3:
        file.seek(0)
        loaded = recognize.load_image(file, (channels, 32, 32))
        assert loaded.shape == (channels, 32, 32)
        assert difference(loaded, np.asarray(grey)[..., None]) <= tolerance
        assert abs(loaded.astype(float).mean() - np.asarray(grey).mean()) < 3


def test_a_large_photograph_looks_the_same_as_its_pixels():
    """A JPEG is decoded at a part of its size."""
    picture = pattern(1200, 1600)
    jpeg, png = (recognize.load_image(saved(picture, kind, **options), (3, 32, 32))
                 for kind, options in (('JPEG', {'quality': 98}), ('PNG', {})))
    assert abs(jpeg.astype(int) - png).max() <= 4
