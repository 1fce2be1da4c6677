"""examples/recognizer/recognize.py with a network whose embeddings are the pixels of digits."""
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections import Counter

import data
import numpy as np
import pytest
import recognize
from patterns import encoded
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import roc_curve

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
from onnx import TensorProto, helper

SCRIPT = os.path.abspath(recognize.__file__)
ENROLLED, STRANGERS = (0, 4, 6, 7), (8, 9)
THRESHOLDS = {
    'euclidean': {'pairs': {'0.01': [[1, 7.]]}, 'strangers': {'0.01': [[1, 9.2], [4, 8.5]]}},
    'cosine': {'pairs': {'0.01': [[1, 0.1]]}, 'strangers': {'0.01': [[1, 0.2], [4, 0.16]]}}}
# Runs the script as a program in which some modules cannot be imported.
WITHOUT = '''
import os, runpy, sys
sys.modules.update(dict.fromkeys(sys.argv.pop(1).split(',')))
sys.argv.pop(0)
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name='__main__')
'''


def model(shape=('N', 1, 8, 8), kind=TensorProto.FLOAT):
    """The bytes of an ONNX network: the pixels of an input of this shape."""
    nodes = [helper.make_node('Cast', ['data'], ['x'], to=TensorProto.FLOAT),
             helper.make_node('Flatten', ['x'], ['embedding'])]
    graph = helper.make_graph(
        nodes, 'g', [helper.make_tensor_value_info('data', kind, shape)],
        [helper.make_tensor_value_info('embedding', TensorProto.FLOAT, None)])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)])
    made.ir_version = 8
    return made.SerializeToString()


def write_digits(folder, digits, first, last, per_class=True):
    """Pictures number `first` to `last` of some digits as PNG files; returns the folder."""
    images, labels = load_digits(return_X_y=True)
    for digit in digits:
        mine = os.path.join(folder, f'digit {digit}') if per_class else str(folder)
        os.makedirs(mine, exist_ok=True)
        for number, image in enumerate(images[labels == digit][first:last]):
            Image.fromarray((image.reshape(8, 8) * 15).astype('uint8')).save(
                os.path.join(mine, f'{digit} {number:03}.png'))
    return str(folder)


def change(out, **settings):
    """Change recognizer.json."""
    path = os.path.join(out, 'recognizer.json')
    with open(path, encoding='utf-8') as file:
        settings = {**json.load(file), **settings}
    with open(path, 'w', encoding='utf-8') as file:
        json.dump(settings, file)


@pytest.fixture(name='made', scope='session')
def make_folders(tmp_path_factory):
    """What every test may copy: an OUT per distance, a gallery, and pictures to identify."""
    folder = tmp_path_factory.mktemp('recognize')
    (folder / 'model.onnx').write_bytes(model())
    for kind, thresholds in THRESHOLDS.items():
        assert recognize.main(['import', str(folder / kind), str(folder / 'model.onnx'),
                               '--distance', kind, '--std', '60']) == 0
        change(folder / kind, thresholds=thresholds)
    write_digits(folder / 'gallery', ENROLLED, 0, 5)
    write_digits(folder / 'images', (*ENROLLED, *STRANGERS), 5, 30)
    return folder


@pytest.fixture(name='out', params=list(THRESHOLDS))
def copy_out(request, made, tmp_path):
    return shutil.copytree(str(made / request.param), str(tmp_path / request.param))


@pytest.fixture(name='cosine')
def copy_cosine(made, tmp_path):
    return shutil.copytree(str(made / 'cosine'), str(tmp_path / 'cosine'))


@pytest.fixture(name='run')
def run_in_process(capsys):
    """Run a command: (exit status, lines of the answer, lines of stderr)."""
    def run(*arguments):
        capsys.readouterr()
        status = recognize.main([str(argument) for argument in arguments])
        answer, errors = capsys.readouterr()
        return status, answer.splitlines(), errors.splitlines()
    return run


class Naive:
    """Embeddings, means, distances of the digits' files by the formulas."""

    def __init__(self, distance, mean=0, std=60):
        self.distance, self.mean_, self.std = distance, mean, std

    def embed(self, path):
        with Image.open(path) as image:
            return self.scale((np.asarray(image).ravel() - float(self.mean_)) / self.std)

    def scale(self, vector):
        return vector / np.linalg.norm(vector) if self.distance == 'cosine' else vector

    def mean(self, folder):
        return self.scale(sum(self.embed(one.path) for one in os.scandir(folder))
                          / len(os.listdir(folder)))

    def between(self, one, other):
        return 1 - one @ other if self.distance == 'cosine' else np.linalg.norm(one - other)

    def nearest(self, path, gallery):
        return sorted((self.between(self.embed(path), self.mean(entry.path)), entry.name)
                      for entry in os.scandir(gallery))


def test_identify_and_verify_find_what_a_naive_search_finds(out, made, run):
    kind = os.path.basename(out)
    naive, limit = Naive(kind), THRESHOLDS[kind]['strangers']['0.01'][1][1]
    (_, of_pairs), = THRESHOLDS[kind]['pairs']['0.01']
    assert run('enrol', out, made / 'gallery') == (
        0, [f'enrolled\tdigit {digit}\t5' for digit in ENROLLED], [])
    status, lines, errors = run('identify', out, made / 'images', '--top', 2)
    assert (status, errors, len(lines)) == (0, [], 150)
    objects = [json.loads(line) for line in run(
        'identify', out, made / 'images', '--top', 2, '--json')[1]]
    answers = set()
    for line, as_json in zip(lines, objects):
        path, name, *found = line.split('\t')
        expected = naive.nearest(path, made / 'gallery')
        assert found[::2] == [one for _, one in expected[:2]]
        np.testing.assert_allclose([float(found[1]), float(found[3])],
                                   [apart for apart, _ in expected[:2]], rtol=1e-4, atol=1e-5)
        assert name == (expected[0][1] if expected[0][0] < limit else 'unknown')
        assert as_json['path'] == path and as_json['threshold'] == limit
        assert (as_json['name'] or 'unknown') == name
        assert [one['name'] for one in as_json['nearest']] == found[::2]
        answers.add(name)
    assert answers == {'unknown', *(f'digit {digit}' for digit in ENROLLED)}
    for other in objects[::20]:
        status, (line,), _ = run('verify', out, objects[0]['path'], other['path'])
        expected = naive.between(*(naive.embed(one['path']) for one in (objects[0], other)))
        word, apart = line.split('\t')
        assert float(apart) == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert word == ('same' if expected < of_pairs else 'different')


def test_serving_needs_no_mxnet(cosine, made, tmp_path):
    """The program with every command, without the packages of the training."""
    image = data.walk(str(made / 'images'))
    for arguments in (['enrol', cosine, made / 'gallery'], ['identify', cosine, made / 'images'],
                      ['verify', cosine, next(image), next(image)], ['list', cosine],
                      ['evaluate', cosine, made / 'images', '--report', tmp_path / 'page.html'],
                      ['embed', cosine, made / 'images', '--output', tmp_path / 'features.npz'],
                      ['remove', cosine, 'digit 0'],
                      ['import', tmp_path / 'new', made / 'model.onnx']):
        done = subprocess.run(
            [sys.executable, '-c', WITHOUT, 'mxnet,center_loss_op,scipy,sklearn,matplotlib,onnx',
             SCRIPT, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            check=False, timeout=120, cwd=str(tmp_path), universal_newlines=True)
        assert (done.returncode, done.stderr) == (0, ''), arguments
        assert done.stdout
    with np.load(tmp_path / 'features.npz') as features:
        assert features['embeddings'].shape == (150, 64) and len(set(features['paths'])) == 150
    assert 'matplotlib is not installed' in (tmp_path / 'page.html').read_text()


def test_classes_are_added_replaced_listed_and_removed(out, tmp_path, run):
    naive = Naive(os.path.basename(out))
    first = write_digits(tmp_path / 'first', [5, 6], 0, 5)
    second = write_digits(tmp_path / 'second', [6, 7], 5, 8)
    expected = {'digit 5': naive.mean(first + '/digit 5')}
    run('enrol', out, first)
    shutil.rmtree(first)        # adding classes needs no earlier pictures
    assert run('enrol', out, second)[1] == ['replaced\tdigit 6\t3', 'enrolled\tdigit 7\t3']
    expected.update((name, naive.mean(os.path.join(second, name))) for name in os.listdir(second))
    with np.load(os.path.join(out, 'gallery.npz')) as gallery:
        for name, mean in zip(gallery['names'], gallery['means']):
            np.testing.assert_allclose(mean, expected[name], rtol=1e-4, atol=1e-5)
    assert run('list', out)[1] == ['digit 5\t5', 'digit 6\t3', 'digit 7\t3']
    assert run('remove', out, 'digit 5', 'digit 9')[0] == 1
    assert run('remove', out, 'digit 5', 'digit 7')[:2] == (0, ['removed\tdigit 5',
                                                                'removed\tdigit 7'])
    assert run('list', out)[1] == ['digit 6\t3']
    run('remove', out, 'digit 6')
    assert 'nothing is enrolled yet' in run('identify', out, second)[2][0]


def test_six_enrolments_at_once_enrol_six_classes(cosine, tmp_path, run):
    folders = [write_digits(tmp_path / str(digit), [digit], 0, 3) for digit in range(6)]
    started = [subprocess.Popen([sys.executable, SCRIPT, 'enrol', cosine, folder],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
               for folder in folders]
    assert [one.wait(120) for one in started] == [0] * 6
    assert sorted(run('list', cosine)[1]) == [f'digit {digit}\t3' for digit in range(6)]


@pytest.mark.parametrize('table, share, count, expected', [
    ({'0.01': [[1, 0.5], [10, 0.4]]}, None, 1, 0.5),
    ({'0.01': [[1, 0.5], [10, 0.4]]}, 0.01, 10, 0.4),
    ({'0.01': [[1, 0.5], [100, 0.3]]}, 0.01, 10, 0.4),            # linear in the logarithm
    ({'0.01': [[1, 0.5], [10, 0.4]]}, 0.01, 100, 0.3),            # goes on
    ({'0.01': [[1, 0.5], [10, 0.1]]}, 0.01, 10000, 0.),
    ({'0.1': [[1, 0.6]], '0.05': [[1, 0.5]]}, None, 1, 0.5),      # the smallest that there is
    ({'0.1': [[1, 0.6]], '0.05': [[1, 0.5]]}, 0.01, 1, '--strangers 0.05, --strangers 0.1, '),
    ({'0.1': []}, 0.1, 1, 'evaluate OUT FOLDER --strangers 0.1 --write'),
    ({}, None, 1, 'evaluate OUT'),
])
def test_the_threshold_for_a_share_of_strangers(cosine, run, table, share, count, expected):
    change(cosine, thresholds={'pairs': {}, 'strangers': table})
    network = recognize.Network(cosine)
    if isinstance(expected, float):
        limit, remark = network.threshold('strangers', share, count)
        assert limit == pytest.approx(expected)
        assert bool(remark) == (count > 10 or (share is None and '0.01' not in table))
    else:
        with pytest.raises(recognize.DataError, match=expected):
            network.threshold('strangers', share, count)


@pytest.mark.skipif(sys.platform == 'win32', reason='file names and pipes of POSIX')
@pytest.mark.parametrize('json_', [True, False])
def test_no_name_forges_a_line(cosine, made, tmp_path, run, json_):
    run('enrol', cosine, made / 'gallery')
    folder = tmp_path / 'odd'
    folder.mkdir()
    names = [b'a\tdigit 4\tdigit 4\t0\nb.png', b'\x1b[2J\r.png', b'\xff [a]*.png', b'u\xcc\x88.png',
             '\u202egnp.png'.encode()]
    for name in names:
        shutil.copy(next(data.walk(str(made / 'images'))), os.fsencode(str(folder)) + b'/' + name)
    (folder / 'zero\n.png').write_bytes(b'')
    os.mkfifo(folder / 'pipe.png')
    os.symlink('/dev/zero', folder / 'device.png')
    done = subprocess.run([sys.executable, SCRIPT, 'identify', cosine, folder, folder / 'pipe.png',
                           *['--json'] * json_], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=60, check=False)
    lines, errors = done.stdout.decode().splitlines(), done.stderr.decode().splitlines()
    assert (done.returncode, len(lines), len(errors)) == (1, len(names), 2)
    assert all(text.isprintable() or '\t' in text for text in lines + errors)
    if json_:
        assert {os.fsencode(os.path.basename(json.loads(line)['path'])) for line in lines} == set(
            names)
    else:
        assert all(line.count('\t') == 3 for line in lines)
    assert 'pipe.png: it is no regular file' in errors[1]


PIXELS, MEANS = encoded(np.zeros((9, 9), 'uint8')), np.eye(64)[:4]
TABLE = [       # a command, files that are written before, and the message
    ('identify nowhere IMAGES', {}, 'nowhere has no recognizer.json'),
    ('identify OUT IMAGES', {'cosine/recognizer.json': b'{'}, 'recognizer.json'),
    ('identify OUT IMAGES', {'cosine/embedding.onnx': b'x'}, 'not the file that recognizer.json'),
    ('identify OUT IMAGES', {'cosine/gallery.npz': b'PK'}, 'cannot read {OUT}/gallery.npz'),
    ('enrol OUT GALLERY', {'cosine/gallery.npz': b'PK'}, 'cannot read {OUT}/gallery.npz'),
    ('identify OUT IMAGES', {'network': np.array('another')}, 'made with another network'),
    ('list OUT', {'means': MEANS[:3]}, 'a count for each of its 4 names'),
    ('list OUT', {'means': MEANS[:, :5]}, 'a mean of 64 numbers'),
    ('list OUT', {'means': MEANS * np.nan}, 'not finite'),
    ('list OUT', {'means': MEANS * 2}, 'not of length 1'),
    ('list OUT', {'counts': np.zeros(4, int)}, 'a count for each of its 4 names'),
    ('list OUT', {'names': np.array(['a', 'b', 'c', 'unknown'])}, 'its names are not'),
    ('list OUT', {'names': np.array(['a', 'b', 'c', 'd\t'])}, 'its names are not'),
    ('list OUT', {'names': np.array(['a', 'b', 'c', 'a'])}, 'its names are not'),
    ('list OUT', {'names': np.array(['a', 'b', 'c', print])}, 'Object arrays'),
    ('remove OUT nobody', {}, "'nobody' is not enrolled"),
    ('verify OUT A A --far 0.05', {}, 'use --far 0.01, --threshold DISTANCE'),
    ('enrol OUT MORE', {'more/some class/x.txt': b''}, '{MORE} has no sub-folders with pictures'),
    ('enrol OUT nowhere', {}, 'cannot read nowhere: No such file'),
    ('enrol OUT MORE', {'more/some class/x.png': b'no'}, 'no picture in {MORE} can be read'),
    ('enrol OUT MORE', {'more/unknown/x.png': b''}, "a class cannot have the name 'unknown'"),
    ('enrol OUT MORE', {'more/a\tb/x.png': b''}, r"a class cannot have the name 'a\tb'"),
    ('evaluate OUT MORE', {'more/one/x.png': PIXELS}, '{MORE} needs pictures of two classes'),
    ('evaluate OUT --bin FILE', {'file': b'\x80\x02K\x01.'}, 'cannot read {FILE}'),
    ('evaluate OUT --bin FILE', {'file': pickle.dumps(([b''] * 2, [print]))}, 'cannot read {FILE}'),
    ('evaluate OUT IMAGES --pairs FILE', {'file': b'name 1'}, '{FILE}, line 1: expected "name 1 2'),
    ('evaluate OUT IMAGES --pairs FILE', {'file': b'\xff\xfe'}, 'is it a .bin?'),
    ('evaluate OUT IMAGES --pairs FILE', {'file': 'name 1 ²'.encode()}, '{FILE}, line 1: expected'),
    ('import NEW FILE', {'file': b'no network'}, 'cannot run {FILE}'),
    ('import NEW nowhere', {}, 'cannot read nowhere: No such file'),
    ('import OUT MODEL', {}, '{OUT} has a recognizer already'),
    ('import NEW MODEL --size 9 9', {}, 'must take one input of 1 or 3 x 9 x 9'),
    ('import NEW MODEL --mean 1 2', {}, '--mean and --std must be one number'),
]


@pytest.mark.parametrize('command, files, message', TABLE)
def test_bad_input_gets_one_line(cosine, made, tmp_path, run, command, files, message):
    run('enrol', cosine, made / 'gallery')
    for name, content in files.items():
        if isinstance(content, bytes):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
        else:       # an array of the gallery
            with np.load(tmp_path / 'cosine' / 'gallery.npz') as found:
                changed = {**found, name: content}
            np.savez(tmp_path / 'cosine' / 'gallery.npz', **changed)
    places = {'OUT': cosine, 'IMAGES': made / 'images', 'GALLERY': made / 'gallery',
              'MORE': tmp_path / 'more', 'A': next(data.walk(str(made / 'images'))),
              'FILE': tmp_path / 'file', 'NEW': tmp_path / 'new', 'MODEL': made / 'model.onnx'}
    status, said, errors = run(*(places.get(word, word) for word in command.split()))
    assert (status, said) == (1, [])
    assert errors[-1].startswith('recognize.py: error: ')
    assert message.format(**places) in errors[-1]
    # Before it only the pictures and folders that could not be read.
    assert all(line.startswith(str(tmp_path / 'more')) for line in errors[:-1])
    assert not (tmp_path / 'new' / 'recognizer.json').exists()


@pytest.mark.parametrize('shape, kind, mean', [
    ((1, 1, 8, 8), TensorProto.FLOAT, 0), (('N', 8, 8, 1), TensorProto.FLOAT, 0),
    ((4, 1, 8, 8), TensorProto.FLOAT, 0), (('N', 1, 'H', 'W'), TensorProto.FLOAT, 0),
    (('N', 1, 8, 8), TensorProto.FLOAT16, 0), (('N', 1, 8, 8), TensorProto.UINT8, 0),
    (('N', 1, 8, 8), TensorProto.FLOAT, 16)])
def test_networks_of_others_give_the_same_answers(made, tmp_path, run, shape, kind, mean):
    (tmp_path / 'model.onnx').write_bytes(model(shape, kind))
    size = ['--size', 8, 8] if 'H' in shape else []
    assert run('import', tmp_path / 'out', tmp_path / 'model.onnx', '--mean', mean, *size)[0] == 0
    run('enrol', tmp_path / 'out', made / 'gallery')
    some = list(data.walk(str(made / 'images')))[::15]
    naive = Naive('cosine', mean, 1)
    for line in run('identify', tmp_path / 'out', *some, '--threshold', 9)[1]:
        path, name, _, apart = line.split('\t')
        expected = naive.nearest(path, made / 'gallery')[0]
        assert name == expected[1] and float(apart) == pytest.approx(expected[0], abs=2e-4)


def test_evaluate_counts_what_identify_says(cosine, made, tmp_path, run):
    run('enrol', cosine, made / 'gallery')
    lines = [line.split('\t') for line in run('identify', cosine, made / 'images')[1]]
    true = [os.path.basename(os.path.dirname(path)) for path, *_ in lines]
    known = [one in {f'digit {digit}' for digit in ENROLLED} for one in true]
    status, (line,), _ = run('evaluate', cosine, made / 'images', '--json', '--strangers', '0.2',
                             '--report', tmp_path / 'page.html', '--threshold', '0.16')
    result = json.loads(line)
    # Every class has 25 pictures here, so that shares of pictures are those of classes.
    rows = list(zip(lines, true, known))
    answers = {'known_accepted': [line[1] == one for line, one, of in rows if of],
               'rank1_of_known': [line[2] == one for line, one, of in rows if of],
               'known_wrong': [line[1] not in (one, 'unknown') for line, one, of in rows if of],
               'strangers_accepted_now': [line[1] != 'unknown' for line, _, of in rows if not of]}
    for name, hits in answers.items():
        assert result['figures'][name]['value'] == pytest.approx(np.mean(hits)), name
    apart = sorted(float(line[3]) for line, of in zip(lines, known) if not of)
    assert result['threshold_for_these_strangers'] == pytest.approx(apart[10], rel=1e-4)
    page = (tmp_path / 'page.html').read_text()
    assert 'digit 4/4 ' in page and 'image/jpeg' not in page
    for (one, answer), count in Counter((one, line[1]) for line, one, of in rows if of).items():
        assert f'<td>{one}</td><td>{answer}</td><td>{count}</td><td>25</td>' in page
    of_others = {**THRESHOLDS['cosine'], 'strangers': {'0.2': [[1, 0.5], [99, 0.01]]}}
    change(cosine, thresholds=of_others)
    run('evaluate', cosine, made / 'images', '--strangers', '0.2', '--write', '--report',
        tmp_path / 'page.html', '--pictures')
    with open(os.path.join(cosine, 'recognizer.json'), encoding='utf-8') as file:
        written = json.load(file)['thresholds']['strangers']['0.2']
    assert [count for count, _ in written] == [1, 4, 99] and written[-1] == [99, 0.01]
    assert 'image/jpeg' in (tmp_path / 'page.html').read_text()
    accepted = [line.split('\t')[1] != 'unknown' for line in run(
        'identify', cosine, made / 'images', '--strangers', '0.2')[1]]
    assert np.mean([one for one, of in zip(accepted, known) if not of]) == pytest.approx(0.2)


def test_pairs_of_lfw(cosine, made, tmp_path, run):
    """The same pairs from a text file, and as insightface's .bin by Python 2 and 3."""
    random, rows = np.random.RandomState(0), []
    for number in range(60):
        one, other = random.choice((*ENROLLED, *STRANGERS), 2, replace=False)
        rows.append((one, one if number % 2 else other, *random.choice(25, 2, replace=False)))
    text = ['10\t3', *(f'digit {a}\t{i}\t{j}' if a == b else f'digit {a}\t{i}\tdigit {b}\t{j}'
                      for a, b, i, j in rows), 'digit 0\t1\t99']
    (tmp_path / 'pairs.txt').write_text('\n'.join(text))
    pairs = [[made / 'images' / f'digit {digit}' / f'{digit} {number:03}.png'
              for digit, number in ((a, i), (b, j))] for a, b, i, j in rows]
    files = [path.read_bytes() for pair in pairs for path in pair]
    same = np.array([a == b for a, b, _, _ in rows])
    (tmp_path / '3.bin').write_bytes(pickle.dumps((files, same.tolist())))
    old = b'\x80\x02(](' + b''.join(b'T' + len(file).to_bytes(4, 'little') + file
                                    for file in files) + b'e](' + b''.join(
        b'\x88' if one else b'\x89' for one in same) + b'et.'
    (tmp_path / '2.bin').write_bytes(old)
    naive = Naive('cosine')
    apart = np.array([naive.between(*map(naive.embed, pair)) for pair in pairs])
    far, tar, _ = roc_curve(same, -apart)
    status, (line,), errors = run('evaluate', cosine, made / 'images', '--pairs',
                                  tmp_path / 'pairs.txt', '--json')
    assert status == 0 and 'digit 0 99' in errors[0]
    result = json.loads(line)
    assert result['pairs'] == 60
    assert result['tar_at_far_1'] == pytest.approx(max(tar[far <= 0.01]))
    assert abs(result['eer'] - far[np.argmin(abs(far - 1 + tar))]) < 0.04
    folds = np.concatenate([np.flatnonzero(kind) for kind in (same, ~same)]).reshape(2, 10, 3)
    right = []
    for number in range(10):
        test = folds[:, number].ravel()
        rest = np.setdiff1d(np.arange(60), test)
        limit = max(apart[rest], key=lambda one: np.mean((apart[rest] <= one) == same[rest]))
        right.append(np.mean((apart[test] <= limit) == same[test]))
    assert result['accuracy'] == pytest.approx(np.mean(right), abs=0.04)
    for name in '2.bin', '3.bin':
        assert run('evaluate', cosine, '--bin', tmp_path / name, '--json')[1] == [line]
