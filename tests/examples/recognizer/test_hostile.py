"""Files that are damaged, or made to harm: one line each, and memory in proportion."""
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import recognize
from patterns import encoded
from PIL import Image

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
from onnx import TensorProto, helper

# Runs a command for each file of a folder, which takes the place of a file of OUT or of {}.
# Prints the largest memory of the process in MB.
CHILD = '''
import contextlib, io, os, sys, warnings
script, place, files, *command = sys.argv[1:]
sys.path.insert(0, os.path.dirname(script))
import recognize
warnings.filterwarnings('ignore', module='PIL')     # as the program does
statuses = []
for name in sorted(os.listdir(files)):
    file = os.path.join(files, name)
    if place:
        with open(file, 'rb') as source, open(place, 'wb') as target:
            target.write(source.read())
    out, err = io.StringIO(), io.StringIO()
    print(name, file=sys.stderr, flush=True)       # the last one is the culprit
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        statuses.append(recognize.main([part.format(file, name) for part in command]))
    lines = err.getvalue().splitlines()
    assert statuses[-1] in (0, 1) and len(lines) >= statuses[-1], lines
    assert len(lines) <= 2 and all(line.isprintable() and len(line) < 1000 for line in lines), lines
    assert statuses[-1] or not lines or 'pairs with' in lines[0], lines
with open('/proc/self/status') as file:
    peak = [line for line in file if line.startswith('VmHWM')][0].split()[1]
print(int(peak) // 1024, *statuses)
'''
pytestmark = pytest.mark.skipif(not os.path.exists('/proc/self/status'),
                                reason='the memory of a process is read from /proc')


@pytest.fixture(name='out')
def make_out(tmp_path):
    """OUT with a gallery of two classes."""
    content = network(tmp_path)
    for number, name in enumerate(('one', 'two')):
        (tmp_path / 'gallery' / name).mkdir(parents=True)
        (tmp_path / 'gallery' / name / 'x.png').write_bytes(picture('PNG', number))
    (tmp_path / 'model.onnx').write_bytes(content)
    for command in (['import', 'out', 'model.onnx'], ['enrol', 'out', 'gallery']):
        assert recognize.main([command[0], *(str(tmp_path / part) for part in command[1:])]) == 0
    return tmp_path / 'out'


def network(tmp_path, size=0):
    """An ONNX network; with a size, one that allocates so many numbers when it runs."""
    def constant(name, values):
        return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
    nodes = [helper.make_node('Flatten', ['data'], ['flat'])]
    if size:
        nodes = [helper.make_node('ReduceMax', ['data'], ['max'], keepdims=0),
                 helper.make_node('Cast', ['max'], ['whole'], to=TensorProto.INT64),
                 helper.make_node('Max', ['whole', 'size'], ['shape']),
                 helper.make_node('ConstantOfShape', ['shape'], ['large']),
                 helper.make_node('ReduceMax', ['large'], ['top'], keepdims=0),
                 helper.make_node('Add', ['data', 'top'], ['sum']),
                 helper.make_node('Flatten', ['sum'], ['flat'])]
    graph = helper.make_graph(
        nodes, 'g', [helper.make_tensor_value_info('data', TensorProto.FLOAT, ('N', 1, 8, 8))],
        [helper.make_tensor_value_info('flat', TensorProto.FLOAT, None)],
        [constant('size', [size])] if size else [])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)])
    made.ir_version = 8
    return made.SerializeToString()


def picture(kind, seed=0):
    return encoded(np.random.RandomState(seed).randint(0, 256, (8, 8, 3), 'uint8'), kind)


def attack(out, files, place, *command):
    """Run CHILD over {name: content}; returns (MB, exit statuses)."""
    folder = out.parent / 'files'
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    done = subprocess.run([sys.executable, '-c', CHILD, recognize.__file__, place and str(place),
                           str(folder), *map(str, command)], stdout=subprocess.PIPE, timeout=1800,
                          stderr=subprocess.PIPE, check=False, cwd=str(out.parent))
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    peak, *statuses = map(int, done.stdout.split())
    return peak, statuses


def bomb(shape):
    """An .npz file whose array `names` has a header for so much, and as many zeros."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive, archive.open(
            'names.npy', 'w') as member:
        np.lib.format.write_array_header_1_0(member, {'descr': '<f8', 'fortran_order': False,
                                                      'shape': shape})
        for _ in range(60):
            member.write(bytes(10 ** 7))
    return file.getvalue()


def test_memory_is_in_proportion(out):
    description = json.loads((out / 'recognizer.json').read_text())
    (out.parent / 'bombs').mkdir()
    for name, kind, mode, options in (      # the largest pictures that are read
            ('a', 'PNG', 'RGBA', {}), ('b', 'PNG', 'I;16', {}), ('c', 'WEBP', 'RGB', {}),
            ('d', 'JPEG', 'RGB', {'progressive': True})):
        Image.new(mode, (7000, 7000)).save(out.parent / 'bombs' / f'{name}.{kind}', kind, **options)
    cases = [
        ({'a.npz': bomb((10 ** 8,)), 'b.npz': bomb((10 ** 15,)), 'c.npz': bomb((75 * 10 ** 6,))},
         out / 'gallery.npz', ['list', out]),
        ({'a.json': b'[' * 10 ** 6, 'b.json': json.dumps(
            {**description, 'size': [60000, 60000]}).encode()}, out / 'recognizer.json',
         ['list', out]),
        ({'all at once': b''}, '', ['embed', out, out.parent / 'bombs', '--output',
                                    out.parent / 'x.npz']),
        ({'a.bin': b'\x80\x02r\xff\xff\xff\x7f.', 'b.bin': b'\x80\x05\x96' + b'\xff' * 4 + b'\3' +
          bytes(3) + b'.', 'c.bin': b'\x80\x04\x95' + b'\xff' * 5 + bytes(3) + b'N.'}, '',
         ['evaluate', out, '--bin', '{0}']),
        ({'a.onnx': network(out, 3 * 10 ** 9), 'b.onnx': network(out, 10 ** 15)}, '',
         ['import', out.parent / '{1}.out', '{0}'])]
    for files, place, command in cases:
        before = place and place.read_bytes()
        peak, statuses = attack(out, files, place, *command)
        assert set(statuses) == {int('bombs' not in str(command))} and peak < 1000, (
            command, peak, statuses)
        for file in (out.parent / 'files').iterdir():
            file.unlink()
        (out.parent / 'files').rmdir()
        if place:
            place.write_bytes(before)


def mutated(content, count, seed):
    """{name: content} with bytes changed, cut out, doubled or made extreme."""
    random, files = np.random.RandomState(seed), {}
    for number in range(count):
        data = bytearray(content)
        for _ in range(random.randint(1, 5)):
            place, length = random.randint(len(data) + 1), random.randint(1, 9)
            kind = random.randint(5)
            data[place:place + length] = (
                bytes(random.randint(0, 256, length).tolist()), b'', data[place:place + 50] * 2,
                b'\xff' * length, bytes(length))[kind]
            if random.rand() < 0.05:
                del data[place:]
        files[f'{number:04}'] = bytes(data)
    return files


@pytest.mark.soak
@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP', 'TIFF', 'GIF', 'BMP', 'PPM', 'gallery',
                                  'description', 'bin', 'pairs', 'onnx'])
def test_damaged_files_end_in_one_line(out, kind):
    pictures = [picture('PNG', seed) for seed in range(48)]
    content, place, command = {
        'gallery': ((out / 'gallery.npz').read_bytes(), out / 'gallery.npz', ['list', out]),
        'description': ((out / 'recognizer.json').read_bytes(), out / 'recognizer.json',
                        ['verify', out, out.parent / 'gallery' / 'one' / 'x.png',
                         out.parent / 'gallery' / 'two' / 'x.png', '--threshold', '1']),
        'bin': (pickle.dumps((pictures, [True, False] * 12), 2), '',
                ['evaluate', out, '--bin', '{0}']),
        'pairs': (b'1 1\none 1 1\none 1 two 1\n' * 5, '',
                  ['evaluate', out, out.parent / 'gallery', '--pairs', '{0}']),
        'onnx': ((out / 'embedding.onnx').read_bytes(), '',
                 ['import', out.parent / 'out{1}', '{0}']),
    }.get(kind) or (picture(kind), '', ['embed', out, '{0}', '--output', out.parent / 'x.npz'])
    peak, statuses = attack(out, mutated(content, 400, len(kind)), place, *command)
    assert len(statuses) == 400 and 1 in statuses and peak < 1000
