"""examples/recognizer/checkpoint.py: files that are whole or not there, and OUT as one network."""
import contextlib
import functools
import io
import json
import os
import threading
import zipfile

import checkpoint
import numpy as np
import pytest
from checkpoint import DataError


def description(**changes):
    """A recognizer.json without its files."""
    return {'network': 'small', 'size': [8, 8], 'channels': 1, 'mean': [0], 'std': [1],
            'features': 4, 'distance': 'cosine', 'classes': ['a', 'b'], 'row': {},
            'thresholds': {'pairs': {'0.01': [[1, 0.5]]}, 'strangers': {'0.05': [[1, 0.3]]}},
            **changes}


def publish(out, content, names=('embedding.onnx', 'classes.npz')):
    checkpoint.publish(str(out), {name: content + name.encode() for name in names},
                       description(network=content.decode()))


# -- files


@pytest.mark.parametrize('break_it', ['fsync', 'replace'])
def test_write_is_all_or_nothing(tmp_path, monkeypatch, break_it):
    path = tmp_path / 'file'
    checkpoint.write(str(path), 'old')
    monkeypatch.setattr(os, break_it, lambda *args: (_ for _ in ()).throw(
        OSError(28, 'No space left on device')))
    with pytest.raises(DataError, match='cannot write .*file: No space left'):
        checkpoint.write(str(path), lambda file: file.write(b'new'))
    assert path.read_bytes() == b'old' and os.listdir(tmp_path) == ['file']


def test_no_link_is_followed(tmp_path):
    """Of whoever can write to OUT, nothing outside it can be changed or read."""
    outside, out = tmp_path / 'outside', tmp_path / 'out'
    outside.mkdir()
    out.mkdir()
    (outside / 'file').write_bytes(b'mine')
    for name in 'metrics.json', '.lock', 'embedding.onnx', 'embedding.onnx.new', 'recognizer.json':
        (out / name).symlink_to(outside / 'file')
    (out / 'checkpoints').symlink_to(outside)
    checkpoint.write(str(out / 'metrics.json'), b'{}')
    for call in (lambda: checkpoint.make_folder(str(out), 'checkpoints', 'below'),
                 lambda: checkpoint.lock(str(out)).__enter__(),
                 lambda: checkpoint.load_recognizer(str(out)),
                 lambda: checkpoint.read_file(str(out / 'embedding.onnx'))):
        with pytest.raises(DataError, match='is a link|or a link'):
            call()
    publish(out, b'one')
    assert checkpoint.load_recognizer(str(out))['network'] == 'one'
    assert os.listdir(outside) == ['file'] and (outside / 'file').read_bytes() == b'mine'
    os.mkfifo(out / 'pipe')
    with pytest.raises(DataError, match='it is no file'):
        checkpoint.read_file(str(out / 'pipe'))


def test_lock(tmp_path):
    """Of two programs one waits, or says that the other one is there."""
    out, other = str(tmp_path / 'out'), contextlib.ExitStack()
    other.enter_context(checkpoint.lock(out))
    with pytest.raises(DataError, match='is in use by another program'):
        with checkpoint.lock(out):
            pass
    (tmp_path / 'out' / '.model.1.unfinished').write_bytes(b'')     # of a program that was killed
    timer = threading.Timer(0.5, other.close)
    timer.start()
    with checkpoint.lock(out, wait=60):
        assert os.listdir(out) == ['.lock']
    timer.join()


# -- arrays


def _zip(shape, count=1, more=0, method=zipfile.ZIP_DEFLATED):
    """An archive of arrays with such a header (a text: it instead), and so many zeros."""
    file, content = io.BytesIO(), io.BytesIO(shape if isinstance(shape, bytes) else b'')
    if isinstance(shape, tuple):
        np.lib.format.write_array_header_1_0(
            content, {'fortran_order': False, 'descr': '<f8', 'shape': shape})
    with zipfile.ZipFile(file, 'w', method) as archive:
        for number in range(count):
            archive.writestr(f'{number}.npy', content.getvalue() + bytes(more))
    return file.getvalue()


@pytest.mark.parametrize('content', [
    b'', b'hello', checkpoint.npz(a=np.array([{}])), _zip((10 ** 9,)),
    _zip(b'no array'), _zip((-1, -1), more=8), _zip((2 ** 18,), more=2 ** 21),
    _zip((2 ** 16,), 3, 2 ** 19), _zip((1,), more=8, method=zipfile.ZIP_BZIP2),
], ids=['empty', 'text', 'objects', 'large header', 'no array', 'negative',
        'bomb', 'many bombs', 'bzip2'])
def test_what_is_no_array(content, monkeypatch):
    monkeypatch.setattr(checkpoint, '_LARGE', 2 ** 20)
    with pytest.raises(DataError) as error:
        checkpoint.read_npz(content, path='file')
    assert str(error.value).startswith('cannot read file: ') and '\n' not in str(error.value)


def test_states(tmp_path):
    """The last two stay; a damaged one is passed over."""
    folder, said = str(tmp_path), []
    assert checkpoint.load_state(folder, said.append) is None
    for epoch in 1, 2, 3:
        checkpoint.save_state(folder, epoch, {'x': np.full(9, epoch)}, {'history': [epoch]})
    assert sorted(os.listdir(folder)) == ['epoch-0002.npz', 'epoch-0003.npz']
    epoch, arrays, state = checkpoint.load_state(folder, said.append)
    assert (epoch, arrays['x'].tolist(), state) == (3, [3] * 9, {'history': [3]}) and not said
    content = bytearray((tmp_path / 'epoch-0003.npz').read_bytes())
    content[content.index(b'NUMPY') + 130] ^= 1
    (tmp_path / 'epoch-0003.npz').write_bytes(content)
    assert checkpoint.load_state(folder, said.append)[0] == 2
    assert len(said) == 1 and 'passed over' in said[0] and 'epoch-0003' in said[0]
    (tmp_path / 'epoch-0002.npz').write_bytes(b'')
    with pytest.raises(DataError, match='no checkpoint in .* can be read'):
        checkpoint.load_state(folder, said.append)


# -- OUT as one network


def test_out_is_one_network_after_a_kill_at_any_moment(tmp_path, monkeypatch):
    """Every call that changes the disk is the last one, once; then the next program is killed."""
    class Killed(BaseException):
        pass

    def killed(out, content, last):
        """Whether there was another call to end with."""
        def call(original, *args):
            if next(calls, None) is None:
                raise Killed
            return original(*args)

        calls = iter(range(last))
        with monkeypatch.context() as patch:
            for name in 'replace', 'unlink', 'fsync':
                patch.setattr(os, name, functools.partial(call, getattr(os, name)))
            try:
                publish(out, content)
            except Killed:
                return True
        return False

    monkeypatch.setattr(os, 'fsync', lambda handle: None)   # takes long
    for last in range(1000):
        out = tmp_path / str(last)
        out.mkdir()
        publish(out, b'old', ('embedding.onnx', 'classes.npz', 'other.params'))
        if not killed(out, b'new', last):
            break
        for content in None, b'next':
            assert content is None or killed(out, content, 9)
            found = checkpoint.load_recognizer(str(out), ('embedding.onnx', 'classes.npz'))
            assert found['content'] == {
                name: found['network'].encode() + name.encode()
                for name in ('embedding.onnx', 'classes.npz')}
        publish(out, b'newest')
        assert checkpoint.load_recognizer(str(out))['network'] == 'newest'
    assert 10 < last < 1000
    assert sorted(os.listdir(out)) == ['classes.npz', 'embedding.onnx', 'recognizer.json']


def test_reading_while_another_publishes(tmp_path, monkeypatch):
    """Between recognizer.json and the other files: the reader gets the new ones."""
    original = checkpoint._described

    def described(out):
        found = original(out)
        monkeypatch.setattr(checkpoint, '_described', original)
        publish(tmp_path, b'new')
        return found

    publish(tmp_path, b'old')
    monkeypatch.setattr(checkpoint, '_described', described)
    found = checkpoint.load_recognizer(str(tmp_path))
    assert (found['network'], found['content']) == ('new', {'embedding.onnx': b'newembedding.onnx'})


def test_files_of_another_network_are_refused(tmp_path):
    publish(tmp_path, b'one')
    (tmp_path / 'embedding.onnx').write_bytes(b'of another training')
    with pytest.raises(DataError, match='embedding.onnx is missing, or not the file that'):
        checkpoint.load_recognizer(str(tmp_path))
    publish(tmp_path, b'two', ['classes.npz'])
    assert not (tmp_path / 'embedding.onnx').exists()
    with pytest.raises(DataError, match=r"names no embedding.onnx: .*examples,onnx"):
        checkpoint.load_recognizer(str(tmp_path))
    assert checkpoint.load_recognizer(str(tmp_path), [])['network'] == 'two'


@pytest.mark.parametrize('changes, message', [
    ({'size': [60000, 60000]}, 'writes "size": .60000, 60000.'),
    ({'size': [8]}, '"size"'), ({'size': [8, True]}, '"size"'), ({'channels': 2}, '"channels"'),
    ({'channels': '1'}, '"channels"'), ({'mean': [1, 2]}, '"mean"'), ({'std': [0]}, '"std"'),
    ({'std': [1e99]}, '"std"'), ({'std': [1e-320]}, '"std"'), ({'mean': None}, '"mean"'),
    ({'features': 10 ** 9}, '"features"'),
    ({'distance': 'l1'}, '"distance"'), ({'thresholds': {}}, '"thresholds"'),
    *[({'thresholds': {'pairs': pairs, 'strangers': strangers}}, '"thresholds"')
      for pairs, strangers in (({'0.1': 1}, {}), ({'nan': [[1, 1]]}, {}), ({}, {'0.1': [[0, 1]]}),
                               ({}, {'1e-999': [[1, 1]]}), ({}, {'0.1': [[1, None]]}))],
    ({'classes': [1]}, '"classes"'), ({'files': {'../x': 64 * '0'}}, '"files"'),
    ({'files': {'x': 'abc'}}, '"files"'), ({'format': 2}, '"format": 2'),
    ('[]', 'it is no object'), ('{"size": NaN}', 'NaN is no number'), ('{', 'cannot read'),
    (9999 * '[', 'cannot read'), ('\udcff', 'cannot read'),
])
def test_a_recognizer_that_cannot_be(tmp_path, changes, message):
    content = changes if isinstance(changes, str) else json.dumps(
        {'format': 1, 'files': {}, **description(), **changes})
    (tmp_path / 'recognizer.json').write_bytes(content.encode(errors='surrogateescape'))
    with pytest.raises(DataError, match=message) as error:
        checkpoint.load_recognizer(str(tmp_path), [])
    assert '\n' not in str(error.value)
