"""The way out: checkpoints of both examples as ONNX files that classify alone."""
import json
import os
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')

import checkpoint
import data
import export_onnx
import networks

EXAMPLES = os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, os.pardir, 'experiments')


def example(script, *arguments):
    done = subprocess.run([sys.executable, os.path.join(EXAMPLES, script), *map(str, arguments)],
                          timeout=120, check=False, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, universal_newlines=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(name='trained', scope='module', params=['train.py'])
def fixture_trained(request, tmp_path_factory):
    """The folder of a short run with an exported network, and what the exporter said."""
    folder = tmp_path_factory.mktemp('onnx')
    example(request.param, '--epochs', 3, '--lr', 0.01, '--embedding-size', 3,
            '--output-dir', folder)
    return folder, example('export_onnx.py', folder)


def by_hand(folder, images):
    """Embeddings and distances to all centers, from the checkpoint by another route."""
    saved = checkpoint.load(str(folder), pytest.fail)
    net = networks.Network(data.CLASSES, 3)
    net.load_parameters(os.path.join(saved.path, 'model-0000.params'), ignore_extra=True)
    embedding = net(mx.nd.array(images))[0].asnumpy().astype('float64')
    centers = saved.aux_params['center_loss_center_bias'].asnumpy()
    return embedding, np.array([[np.linalg.norm(x - c) for c in centers] for x in embedding])


def test_the_file_alone_classifies(trained):
    folder, said = trained
    path = str(folder / 'model.onnx')
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    assert [(value.name, value.shape) for value in session.get_inputs()] == [
        ('data', ['batch', 1, 8, 8])]
    assert [(value.name, value.type, value.shape) for value in session.get_outputs()] == [
        ('embedding', 'tensor(float)', ['batch', 3]), ('label', 'tensor(int32)', ['batch']),
        ('distance', 'tensor(float)', ['batch'])]

    _, test_set = data.load('digits')
    expected, distances = by_hand(folder, test_set.images)
    for size in 1, 7, len(test_set.labels):
        embedding, label, distance = session.run(None, {'data': test_set.images[:size]})
        assert abs(embedding - expected[:size]).max() < 1e-5
        assert abs(distance - distances[:size].min(axis=1)).max() < 1e-5
        np.testing.assert_array_equal(label, distances[:size].argmin(axis=1))
    accuracy = (label == test_set.labels).mean()
    metrics = json.loads((folder / 'metrics.json').read_text())
    assert accuracy == metrics['nearest_center_accuracy'] > 0.3
    assert '%.2f %% of the test set right' % (100 * accuracy) in said


def test_the_losses_stay_behind(trained):
    folder, _ = trained
    graph = onnx.load(str(folder / 'model.onnx')).graph
    assert not {'Softmax', 'LogSoftmax'} & {node.op_type for node in graph.node}
    names = {value.name for value in graph.initializer}
    assert 'center_loss_center_bias' in names and 'classifier_weight' not in names


def test_the_centers_beside_it(trained):
    folder, _ = trained
    saved = checkpoint.load(str(folder), pytest.fail)
    with np.load(str(folder / 'centers.npz')) as file:
        assert file.files == ['centers']
        np.testing.assert_array_equal(file['centers'],
                                      saved.aux_params['center_loss_center_bias'].asnumpy())


def test_a_threshold_is_part_of_the_file(trained):
    folder, _ = trained
    _, test_set = data.load('digits')
    _, distances = by_hand(folder, test_set.images)
    threshold = float(np.median(distances.min(axis=1)))
    export_onnx.export(export_onnx.parse([str(folder), '--threshold', str(threshold)]))
    session = onnxruntime.InferenceSession(str(folder / 'model.onnx'),
                                           providers=['CPUExecutionProvider'])
    label, = session.run(['label'], {'data': test_set.images})
    known = distances.min(axis=1) < threshold
    clear = abs(distances.min(axis=1) - threshold) > 1e-5
    np.testing.assert_array_equal(label[clear],
                                  np.where(known, distances.argmin(axis=1), -1)[clear])
    assert 0.4 < (label == -1).mean() < 0.6


def test_a_difference_is_an_error():
    good = [np.ones((2, 3)), np.array([1, 2]), np.ones(2)]
    assert max(export_onnx.compare(good, good).values()) == 0
    for which, change in ((0, 2e-5), (1, 1), (2, np.nan)):
        bad = [value.copy() for value in good]
        bad[which].flat[-1] += change
        with pytest.raises(export_onnx.ExportError, match=export_onnx.OUTPUTS[which]):
            export_onnx.compare(bad, good)


def test_a_file_that_differs_is_not_left(trained, monkeypatch):
    folder, _ = trained
    files = [folder / 'model.onnx', folder / 'centers.npz']
    before = [file.read_bytes() for file in files]
    monkeypatch.setattr(export_onnx, 'run_mxnet', lambda *_: [
        np.full((360, 3), np.nan), np.zeros(360), np.zeros(360)])
    with pytest.raises(export_onnx.ExportError):
        export_onnx.export(export_onnx.parse([str(folder), '--threshold', '0.5']))
    assert [file.read_bytes() for file in files] == before


def test_nothing_to_export(tmp_path):
    with pytest.raises(export_onnx.ExportError, match='no checkpoint in %s' % tmp_path):
        export_onnx.export(export_onnx.parse([str(tmp_path)]))
