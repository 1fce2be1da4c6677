"""The training script, for real, for a few steps; test_resume.py interrupts it."""
import csv
import io
import json
import os
import struct
import subprocess
import sys

import evaluation
import mxnet as mx
import networks
import numpy as np
import options
import plots
import pytest
import recipe
import run
import train
from pictures import png_size

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, os.pardir,
                      'experiments', 'train.py')
METRICS = ('accuracy', 'nearest_center_accuracy', 'intra_class_distance', 'inter_class_distance',
           'compactness', 'seconds_per_epoch')
PICTURES = ('embedding.png', 'curves.png')


def script(*arguments, code=0, **environment):
    """Run the script: its CompletedProcess."""
    done = subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], timeout=120, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env={**os.environ, **environment})
    done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == code, done.stderr
    return done


def trained(*arguments):
    """Train in this process: the Evaluation."""
    return train.train(options.parse(list(map(str, arguments))))


def contents(folder, name):
    return (folder / name).read_text(encoding='utf-8')


@pytest.fixture(scope='module')
def short_run(tmp_path_factory):
    """(output folder, CompletedProcess) of two epochs on digits, with an ASCII terminal."""
    folder = tmp_path_factory.mktemp('short') / 'new' / 'folder'
    return folder, script('--epochs', 2, '--output-dir', folder, PYTHONIOENCODING='ascii')


def test_a_run_leaves_what_the_readme_promises(short_run):
    folder, done = short_run
    assert sorted(os.listdir(str(folder))) == ['.lock', 'checkpoints', 'curves.png',
                                               'embedding.png', 'history.csv', 'metrics.json']
    metrics = json.loads(contents(folder, 'metrics.json'))
    assert tuple(metrics) == METRICS
    assert 0 < metrics['accuracy'] <= 1 and 0 < metrics['nearest_center_accuracy'] <= 1
    assert metrics['compactness'] == pytest.approx(
        metrics['intra_class_distance'] / metrics['inter_class_distance'])
    assert metrics['seconds_per_epoch'] > 0
    for picture in PICTURES:
        assert min(png_size(folder / picture)) >= 400
    assert 'joint: 100%' in done.stderr and 'loss=' in done.stderr and 'accuracy=' in done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [row[0] for row in rows] == list(METRICS)
    assert [float(row[-1]) for row in rows] == pytest.approx(list(metrics.values()), rel=1e-3)


def test_the_history_has_a_row_an_epoch_and_learns(short_run):
    folder, _ = short_run
    rows = [{name: float(value) for name, value in row.items()}
            for row in csv.DictReader(contents(folder, 'history.csv').splitlines())]
    assert [row['epoch'] for row in rows] == [1, 2]
    assert rows[1]['loss'] < rows[0]['loss']
    parsed = options.parse(['--epochs', '2'])
    for row in rows:  # λ as it is after half of the training, and after all of it
        _, center_weight = recipe.weights(parsed, row['epoch'], 2)
        assert row['loss'] == pytest.approx(
            row['softmax_loss'] + center_weight * row['center_loss'])
        assert 0 <= row['accuracy'] <= 1 and row['seconds'] > 0
    metrics = json.loads(contents(folder, 'metrics.json'))
    assert rows[-1]['test_accuracy'] == metrics['accuracy']
    assert metrics['seconds_per_epoch'] == pytest.approx(sum(row['seconds'] for row in rows) / 2)


def test_the_same_seed_gives_the_same_numbers(short_run, tmp_path):
    folder, _ = short_run
    trained('--epochs', 2, '--output-dir', tmp_path)
    before, after = (json.loads(contents(path, 'metrics.json')) for path in (folder, tmp_path))
    del before['seconds_per_epoch'], after['seconds_per_epoch']
    assert before == after
    assert ((folder / 'embedding.png').read_bytes() == (tmp_path / 'embedding.png').read_bytes())


def test_mxnet_loads_the_checkpoint_and_computes_the_same(short_run):
    """The network in Gluon, the network as a symbol and the saved symbol agree on one file."""
    folder, _ = short_run
    checkpoints = folder / 'checkpoints'
    model = str(checkpoints / max(os.listdir(str(checkpoints))) / 'model')
    symbol, arg_params, aux_params = mx.model.load_checkpoint(model, 0)
    assert aux_params['center_loss_center_bias'].shape == (10, 2)
    images = mx.nd.random.uniform(shape=(5, 1, 8, 8))

    net = networks.Network(10, 2)
    net.load_parameters(model + '-0000.params', ignore_extra=True)
    expected = [output.asnumpy() for output in net(images)]

    graph = mx.sym.Group(networks.network(mx.sym.var('data'), 10, 2))
    assert set(graph.list_arguments()) == {'data', *arg_params}
    outputs = graph.bind(mx.cpu(), {'data': images, **arg_params}).forward()
    for output, value in zip(outputs, expected):
        np.testing.assert_allclose(output.asnumpy(), value, rtol=1e-4, atol=1e-5)

    module = mx.mod.Module(symbol, label_names=None)
    module.bind([('data', images.shape)], for_training=False)
    module.set_params(arg_params, aux_params, allow_extra=True)
    module.forward(mx.io.DataBatch([images]))
    outputs = dict(zip(symbol.list_outputs(), module.get_outputs()))
    np.testing.assert_allclose(outputs['embedding_fwd_output'].asnumpy(), expected[0], rtol=1e-4,
                               atol=1e-5)


def test_every_option_arrives(tmp_path):
    """A run with no option at its default, of the class of losses that collapses."""
    trained('--dataset', 'digits', '--loss', 'center', '--center-weight', 0.5,
            '--center-warmup', 0.75, '--alpha', 0.25, '--embedding-size', 5, '--epochs', 1,
            '--batch-size', 100, '--lr', 0.02, '--shift', 2, '--seed', 3, '--validate',
            '--output-dir', tmp_path)
    (path,) = (tmp_path / 'checkpoints').iterdir()
    assert path.name == 'step-00000011'     # 1437 · 5/6 // 100
    state = json.loads(contents(path, 'state.json'))
    assert state['options'] == {
        'dataset': 'digits', 'loss': 'center', 'center_weight': 0.5, 'center_warmup': 0.75,
        'alpha': 0.25, 'embedding_size': 5, 'batch_size': 100, 'lr': 0.02, 'shift': 2, 'seed': 3,
        'validate': True}
    row, = state['history']['rows']
    assert row['loss'] == pytest.approx(0.5 * row['center_loss'])
    assert mx.nd.load(str(path / 'model-0000.params'))['aux:center_loss_center_bias'].shape \
        == (10, 5)


def mnist_files(folder, count=40):
    """Idx files like MNIST's, of random pixels."""
    random = np.random.RandomState(0)
    for part in 'train', 't10k':
        images = random.randint(0, 256, (count, 28, 28)).astype(np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (folder / (part + '-images-idx3-ubyte')).write_bytes(
            struct.pack('>4B3I', 0, 0, 8, 3, *images.shape) + images.tobytes())
        (folder / (part + '-labels-idx1-ubyte')).write_bytes(
            struct.pack('>4BI', 0, 0, 8, 1, count) + labels.tobytes())


def test_mnist_trains_from_files(tmp_path):
    mnist_files(tmp_path)
    trained('--dataset', 'mnist', '--data-dir', tmp_path, '--epochs', 1, '--batch-size', 20,
            '--output-dir', tmp_path / 'out')
    assert json.loads(contents(tmp_path / 'out', 'metrics.json'))['accuracy'] <= 1


ERRORS = [
    (['--dataset', 'mnist'], 'MNIST is read from files: give their folder with --data-dir'),
    (['--data-dir', 'folder'],
     '--data-dir is for --dataset mnist, the digits are bundled with scikit-learn: give --dataset '
     'mnist as well, or leave --data-dir out'),
    (['--dataset', 'mnist', '--data-dir', 'no'],
     'train-images-idx3-ubyte not found in no, neither as it is nor as .gz'),
    (['--gpus', '0,99'], '--gpus asks for GPU 0, 99, but MXNet finds 0 GPUs here'),
    (['--output-dir', os.devnull + '/out'],
     'cannot write to %s/out: Not a directory' % os.devnull),
    (['--lr', '1e30', '--epochs', '1'],
     'the loss is nan in epoch 1: try a smaller --lr or --center-weight'),
]


@pytest.mark.parametrize('arguments, line', ERRORS)
def test_what_a_user_can_put_right_is_one_line(arguments, line, tmp_path, monkeypatch):
    if '--gpus' in arguments and mx.context.num_gpus():
        pytest.skip('this machine has GPUs')
    monkeypatch.setattr(sys, 'argv', ['train.py'])
    with pytest.raises(SystemExit) as exit_:
        run.script(lambda: trained('--output-dir', tmp_path, *arguments))
    assert exit_.value.code == 'train.py: error: ' + line


@pytest.mark.slow
def test_the_line_reaches_the_user(tmp_path):
    """Nothing else comes with it, also from Python and MXNet."""
    done = script('--dataset', 'mnist', '--output-dir', tmp_path, code=1)
    assert done.stderr == 'train.py: error: %s\n' % ERRORS[0][1]


def test_a_terminal_that_is_not_utf_8_shows_the_codes_of_letters(monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), 'ascii')
    monkeypatch.setattr(sys, 'stdout', stdout)
    run.script(lambda: print('λ = 0.1'))
    stdout.flush()
    assert stdout.buffer.getvalue() == b'\\u03bb = 0.1\n'


def test_parsing_connects_to_nothing(monkeypatch):
    monkeypatch.setattr(mx.kv, 'create', lambda *args: pytest.fail('connected to servers'))
    monkeypatch.setitem(sys.modules, 'horovod', None)
    for store in 'dist_sync', 'horovod':
        assert options.parse(['--kv-store', store]).kv_store == store


@pytest.mark.parametrize('arguments, complaint', [
    (['--loss', 'triplet'], "invalid choice: 'triplet'"),
    (['--dataset', 'cifar'], "invalid choice: 'cifar'"),
    (['--center-weight', '-1'], 'argument --center-weight: must be finite and >= 0, got -1'),
    (['--alpha', 'nan'], 'argument --alpha: must be finite and >= 0, got nan'),
    (['--lr', 'inf'], 'argument --lr: must be finite and >= 0, got inf'),
    (['--lr', 'fast'], "argument --lr: invalid number value: 'fast'"),
    (['--embedding-size', '0'], 'argument --embedding-size: must be from 1 to'),
    (['--epochs', '0'], 'argument --epochs: must be from 1 to'),
    (['--batch-size', '0'], 'argument --batch-size: must be from 1 to'),
    (['--seed', '-1'], 'argument --seed: must be from 0 to'),
    (['--gpus', '0,-1'], 'argument --gpus: must be from 0 to'),
])
def test_an_impossible_option_is_named(arguments, complaint, capsys):
    with pytest.raises(SystemExit) as exit_:
        options.parse(arguments)
    assert exit_.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_batch_larger_than_the_training_set_is_refused():
    with pytest.raises(options.OptionError, match='--batch-size must be at most 1437, the size '
                                                  'of the training set, got 1438'):
        options.check(options.parse(['--batch-size', '1438']), 1437)


def test_devices_are_those_asked_for():
    assert options.parse([]).contexts == [mx.cpu()]
    assert options.parse(['--gpus', '0,2']).contexts == [mx.gpu(0), mx.gpu(2)]


@pytest.mark.parametrize('loss, weights', [('joint', (1, 0.3)), ('softmax', (1, 0)),
                                           ('center', (0, 0.3))])
def test_the_losses_are_weighed(loss, weights):
    assert options.parse(['--loss', loss, '--center-weight', '0.3']).weights == weights


@pytest.mark.parametrize('warmup, expected', [
    (0, [4, 4, 4, 4]), (0.5, [2, 4, 4, 4]), (1, [1, 2, 3, 4])])
def test_the_weight_of_center_loss_rises(warmup, expected):
    parsed = options.parse(['--center-weight', '4', '--center-warmup', str(warmup)])
    assert [recipe.weights(parsed, update, 4) for update in (1, 2, 3, 4)] == [
        (1, weight) for weight in expected]


def test_metrics_are_those_of_a_naive_route():
    random = np.random.RandomState(0)
    embedding = random.randn(50, 3).astype(np.float32)
    labels = np.arange(50) % 4
    centers = random.randn(5, 3).astype(np.float32)     # one without a sample
    scores = random.randn(50, 5)
    metrics = evaluation.evaluate(embedding, scores, labels, centers).metrics

    means = [sum(embedding[i].astype(float) for i in range(50) if labels[i] == j)
             / sum(labels == j) for j in range(4)]
    squares = [sum((embedding[i] - means[labels[i]]) ** 2) for i in range(50)]
    between = [sum((means[i] - means[j]) ** 2) ** 0.5 for i in range(4) for j in range(i)]
    nearest = [min(range(5), key=lambda j, x=x: sum((x - centers[j]) ** 2)) for x in embedding]
    assert metrics['accuracy'] == np.mean([max(range(5), key=lambda j, s=s: s[j])
                                           for s in scores] == labels)
    assert metrics['nearest_center_accuracy'] == np.mean(nearest == labels)
    assert metrics['intra_class_distance'] == pytest.approx((sum(squares) / 50) ** 0.5)
    assert metrics['inter_class_distance'] == pytest.approx(min(between))
    assert metrics['compactness'] == pytest.approx((sum(squares) / 50) ** 0.5 / min(between))


def test_collapsed_features_have_no_compactness():
    metrics = evaluation.evaluate(np.zeros((4, 2), np.float32), np.eye(4, 2),
                                  np.array([0, 0, 1, 1]), np.zeros((2, 2))).metrics
    assert metrics['inter_class_distance'] == 0 and metrics['compactness'] is None
    assert '-' in evaluation.table({'collapsed': metrics})


@pytest.mark.parametrize('size, words', [(1, ''), (2, ''), (8, ' (first 2 principal components '
                                                               'of 8)')])
@pytest.mark.parametrize('classes', [10, 12])
def test_the_picture_shows_every_class_and_center(size, words, classes):
    random = np.random.RandomState(0)
    labels = np.arange(60) % classes
    evaluated = evaluation.Evaluation(random.randn(60, size), labels, random.randn(classes, size),
                                      {})
    figure = plots.embedding_figure({'left': evaluated, 'right': evaluated})
    left, right = figure.axes
    assert left.get_title() == 'left' + words and right.get_title() == 'right' + words
    legend = [text.get_text() for text in right.get_legend().get_texts()]
    assert legend == [text.get_text() for text in right.texts] == list(map(str, range(classes)))
    assert len({tuple(points.get_facecolor()[0]) for points in right.collections}) == classes
    assert sum(len(points.get_offsets()) for points in right.collections) == 60
    if size == 2:
        for line, center in zip(right.lines, evaluated.centers):
            np.testing.assert_array_equal(line.get_xydata(), [center])


def test_the_curves_show_the_history():
    rows = [{'epoch': epoch, 'loss': 3 / epoch, 'softmax_loss': 2 / epoch, 'center_loss': 1.,
             'accuracy': 0.5, 'test_accuracy': 0.4, 'learning_rate': 0.1, 'seconds': 1.}
            for epoch in (1, 2, 3)]
    losses, accuracies, rates = plots.curves_figure(rows).axes
    assert [line.get_label() for line in losses.lines] == ['loss', 'softmax loss', 'center loss']
    np.testing.assert_array_equal(losses.lines[0].get_xydata(), [[1, 3], [2, 1.5], [3, 1]])
    assert [line.get_label() for line in accuracies.lines] == ['accuracy', 'test accuracy']
    assert len(rates.lines) == 1


def test_an_interrupt_outside_of_training_is_no_traceback():
    def interrupted():
        raise KeyboardInterrupt
    with pytest.raises(SystemExit) as exit_:
        run.script(interrupted)
    assert exit_.value.code == 130
