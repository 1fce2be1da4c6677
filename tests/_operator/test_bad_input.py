"""Bad input through every entry: a clear error, nothing lost, and the next good batch trains."""
import json
import re

from center_loss_op.gluon import CenterLoss

import hypothesis
import mxnet as mx
import numpy as np
import pytest
from cases import ARGUMENTS, batch, message
from entries import array, bind, block, run, run_block, settle
from hypothesis import strategies as st
from mxnet import autograd, gluon
from numpy.testing import assert_allclose, assert_array_equal
from oracle import center_loss

DATA, LABEL, CENTERS = batch(6, 3, 4)

# -- arguments that no builder has checked. The exception's text is in the log, and on stderr.
# An exception in the wrong place of MXNet's callbacks ends the process: so in one of its own.

MESSAGES = {f'{name}={given}': f'{error.__name__}: {message(name, str(given), case.wanted)}'
            for name, case in ARGUMENTS.items() for given, error in case.bad
            if isinstance(given, str) or error is ValueError}
MESSAGES.update({
    'num_class=missing': "TypeError: missing argument 'num_class'",
    'beta=1': "TypeError: unknown argument 'beta'; allowed are: num_class, alpha",
    'lambda=3': "TypeError: unknown argument 'lambda', did you mean scale?",
    'num_class=%d' % 2 ** 31: 'ValueError: num_class must be at most 2147483647, as many elements '
                              "as an MXNet array can have, got '2147483648'"})
ENTRIES = ['symbol', 'ndarray', 'recorded', 'json']

CHILD = '''
import json, logging, os, sys
cases = json.loads(sys.argv[1])
import center_loss_op
import mxnet as mx

class Handler(logging.Handler):
    def emit(self, record):
        logged.append(record.getMessage())
logging.getLogger('center_loss_op').addHandler(Handler())

data, label = mx.sym.var('data'), mx.sym.var('label')
template = mx.sym.Custom(data, label, op_type='centerloss', num_class=3, name='node').tojson()
x, y, centers = mx.nd.ones((2, 2)), mx.nd.array([0, 1]), mx.nd.zeros((3, 2))

def build(entry, attributes):
    if entry == 'symbol':
        mx.sym.Custom(data, label, op_type='centerloss', **attributes)
    elif entry == 'ndarray':
        mx.nd.Custom(x, y, centers, op_type='centerloss', **attributes).asnumpy()
    elif entry == 'recorded':
        with mx.autograd.record():
            mx.nd.Custom(x, y, centers, op_type='centerloss', **attributes).asnumpy()
    else:
        graph = json.loads(template)
        for node in graph['nodes']:
            if node['op'] == 'Custom':
                node['attrs'] = {'op_type': 'centerloss', **attributes}
        mx.sym.load_json(json.dumps(graph))

for entry, case in cases:
    name, value = case.split('=')
    attributes = {'num_class': '3', name: value}
    if value == 'missing':
        del attributes[name]
    logged = []
    try:
        build(entry, attributes)
        found = 'no exception'
    except mx.MXNetError:
        found = logged
    # Good arguments still work, and nothing has moved.
    loss = mx.nd.Custom(x, y, centers, op_type='centerloss', num_class=3).asscalar()
    assert loss == 1 and not centers.asnumpy().any()
    print('RESULT', json.dumps([entry, case, found]), flush=True)
try:
    mx.nd.Custom(x, mx.nd.array([0, 5]), centers, op_type='centerloss', num_class=3).asnumpy()
except mx.MXNetError:
    pass
'''


@pytest.fixture(name='answers', scope='module')
def fixture_answers(child):
    """The end of the process, and what each entry answered: {(entry, case): logged messages}."""
    # All doors lead to one parser: one argument is tried at each, the others at one in turn.
    cases = [(ENTRIES[number % 4], case) for number, case in enumerate(MESSAGES)]
    cases += [(entry, case) for entry in ENTRIES for case in ('alpha=fast', 'beta=1')]
    done = child(CHILD, json.dumps(cases))
    lines = [json.loads(line[7:]) for line in done.stdout.splitlines() if line[:7] == 'RESULT ']
    return done, {(entry, case): found for entry, case, found in lines}, cases


def test_bad_arguments(answers):
    done, found, cases = answers
    for key in cases:
        assert key in found, f'{key}: the process ended: {done.stderr[-2000:]}'
        assert any(line.startswith(MESSAGES[key[1]]) for line in found[key]), (key, found[key])
    assert done.returncode == 0, done.stderr
    # MXNet prints what it swallows; the same text is documented to be there.
    for text in (*MESSAGES.values(), 'LabelError: label[1] is 5.0, but a label must be a whole'):
        assert text in done.stderr + done.stdout


# -- a bad label, in a training run that does not wait for anything

BAD_LABELS = [([0, 1, 9, 2, 0, 1], 'label[2] is 9.0, but a label must be a whole number'),
              ([np.nan] * 6, 'label[0] is nan, but a label must be a whole number')]


class Training:
    """Gluon's loop over a layer and both losses."""

    def __init__(self, hybridize):
        mx.random.seed(1)
        self.embedding = gluon.nn.Dense(3, in_units=3)
        self.classifier = gluon.nn.Dense(4, in_units=3)
        self.softmax, self.center = gluon.loss.L2Loss(), CenterLoss(4, in_units=3, weight=.5)
        for part in (self.embedding, self.classifier, self.center):
            part.initialize(mx.init.Xavier())
            if hybridize:
                part.hybridize()
        self.trainer = gluon.Trainer(
            {**self.embedding.collect_params(), **self.classifier.collect_params()},
            'sgd', {'learning_rate': .1, 'momentum': .9})

    def step(self, label):
        """Queue a step; nothing is read, so nothing is known of its outcome."""
        with autograd.record():
            features = self.embedding(array(DATA))
            scores = self.classifier(features)
            loss = self.softmax(scores, scores * 0 + 1) + self.center(
                features, array(np.asarray(label, 'float32')))
        loss.backward()
        self.trainer.step(6)

    def state(self):
        """Everything that training changes."""
        mx.nd.waitall()
        return [p.data().asnumpy() for part in (self.embedding, self.classifier, self.center)
                for p in part.collect_params().values()]


@pytest.mark.parametrize('hybridize', [False, True])
def test_good_batches_train_after_a_bad_one(hybridize, log):
    """loss.backward() and trainer.step() are queued already: weights and centers stay.

    A loop that catches the exception and goes on ends as one that never met the batch.
    """
    clean, dirty = Training(hybridize), Training(hybridize)
    for label, text in BAD_LABELS:
        clean.step(LABEL)
        dirty.step(LABEL)
        dirty.step(label)
        with pytest.raises(mx.MXNetError):
            mx.nd.waitall()
        assert 'LabelError: ' + text in log()
        for value, expected in zip(dirty.state(), clean.state()):
            assert_array_equal(value, expected)


@pytest.mark.parametrize('label, text', BAD_LABELS, ids=['9', 'nan'])
@pytest.mark.usefixtures('backend')
def test_bad_label_of_a_bound_graph(label, text, log):
    """Forward and backward fail and write nothing; the executor goes on with the next batch."""
    symbol = mx.sym.Custom(mx.sym.var('data'), mx.sym.var('label'), op_type='centerloss',
                           num_class=4)
    executor = bind(symbol, DATA, LABEL, CENTERS)
    centers = run(executor).centers
    executor.arg_dict['label'][:] = label
    executor.grad_dict['data'][:] = 3
    executor.forward(is_train=True)
    for call in (lambda: None, executor.backward):
        call()
        with pytest.raises(mx.MXNetError):
            mx.nd.waitall()
        settle()
    assert log().count(text) == 2
    assert_array_equal(executor.grad_dict['data'].asnumpy(), 3)
    assert_array_equal(executor.aux_arrays[0].asnumpy(), centers)
    executor.arg_dict['label'][:] = LABEL
    want = center_loss(DATA, LABEL, centers)
    for value, expected in zip(run(executor), want):
        assert_allclose(value, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('hybridize', [False, True])
@pytest.mark.parametrize('data, label, text', [
    (np.ones((2, 3, 3)), LABEL, 'embedding must be 2-D, (batch, features), got shape (2, 3, 3); '
     'label has shape (6,). If this is a sequence (N, T, d), each position counts as a sample: '
     'give embedding.reshape((-1, 3)) and label.reshape((-1,)). See docs/using.md'),
    (np.ones((5, 3)), LABEL,
     'label must have shape (5,) or (5, 1) to fit embedding of shape (5, 3), got shape (6,)'),
    (np.ones((6, 3)), np.ones((6, 2)), 'to fit embedding of shape (6, 3), got shape (6, 2)'),
    (np.ones((6, 3)), np.ones((6, 4)), 'to fit embedding of shape (6, 3), got shape (6, 4). If '
     'these are one-hot labels, give their classes: label.argmax(axis=1)'),
    (np.ones((6, 5)), LABEL, 'embedding has 5 features a sample, but in_units is 3'),
    (np.ones((6, 3), 'int32'), LABEL, 'embedding must be float16, float32 or float64, got int32'),
    (np.ones((6, 3), 'float64'), LABEL, "embedding is float64, but the centers are float32: write "
     "center_loss.cast('float64') before, or give embedding.astype('float32'). See docs/using.md")])
def test_bad_shape_or_type_in_gluon(data, label, text, hybridize):
    """At the call, in the names of its arguments; the block goes on."""
    loss = block(CENTERS, hybridize)
    data = data.astype('float32') if data.shape != (6, 3) or label.shape != (6,) else data
    with pytest.raises((TypeError, ValueError), match=re.escape(text) + '$'):
        run_block(loss, data, label)
    want = center_loss(DATA, LABEL, CENTERS, reduction='none')
    for value, expected in zip(run_block(loss, DATA, LABEL), want):
        assert_allclose(value, expected, rtol=1e-5)


# Shapes of features and labels, and what the features are.
MANY_AXES = [
    ((4, 5, 1, 1), (4,), 'pooled'), ((4, 5, 1), (4, 1), 'pooled'), ((4, 1, 1, 5), (4,), 'pooled'),
    ((4, 5, 2, 3), (4,), 'map'), ((4, 5, 2, 3), (4, 2, 3), 'map'), ((4, 5, 2, 2, 2), (4,), 'map'),
    ((4, 6, 3), (4, 6), 'sequence'), ((4, 6, 3), (24,), 'sequence'), ((4, 6, 3), (4,), 'sequence'),
    ((4, 6, 1), (4, 6), 'sequence')]


@pytest.mark.parametrize('data, label, kind', MANY_AXES)
def test_the_suggested_remedy(data, label, kind):
    """It runs as it is written, and gives the loss of the features of each position."""
    random = np.random.RandomState(7)
    x, y = random.standard_normal(data).astype('float32'), random.randint(0, 4, label)
    values = {'embedding': mx.nd.array(x), 'label': mx.nd.array(y)}
    loss = CenterLoss(4)
    loss.initialize()
    with pytest.raises(ValueError) as caught:
        loss(*values.values())
    give = re.search(r'give (.*?)(?: and (label.*?))?(?:\. See docs/using.md)?$',
                     str(caught.value))
    features, labels = (eval(text, {}, values)
                        for text in give.groups('label'))
    positions = {'pooled': (), 'map': data[2:], 'sequence': data[1:2]}[kind]
    rows = np.moveaxis(x, 1, -1) if kind == 'map' else x
    places = list(np.ndindex(data[0], *positions))
    want_rows = np.array([rows[place].ravel() for place in places])
    want_labels = [y.ravel()[place[0]] if y.size == data[0]
                   else y.reshape(data[0], *positions)[place] for place in places]
    assert_array_equal(features.asnumpy(), want_rows)
    assert_array_equal(labels.asnumpy().ravel(), want_labels)
    want = center_loss(want_rows, want_labels, np.zeros((4, want_rows.shape[1])), reduction='none')
    assert_allclose(loss(features, labels).asnumpy(), want.loss, rtol=1e-5)


# -- at random

TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126, blacklist_characters='"\\'),
               max_size=8)
VALUES = (TEXT | st.floats().map(str) | st.integers().map(str)
          | st.sampled_from(['mean', 'sum', 'none', 'True', 'False', '0', '1']))


@hypothesis.given(st.dictionaries(
    st.sampled_from([name for name in ARGUMENTS if name != 'key'])
    | TEXT.filter(str.isidentifier), VALUES, max_size=4))
def test_any_attributes(attributes):
    """Of a saved graph: it loads and infers its shapes, or there is an exception."""
    graph = json.loads(mx.sym.Custom(mx.sym.var('data'), mx.sym.var('label'), num_class=4,
                                     op_type='centerloss').tojson())
    for part in graph['nodes']:
        if part['op'] == 'Custom':
            part['attrs'].update(attributes)
    try:
        symbol = mx.sym.load_json(json.dumps(graph))
        shapes = symbol.infer_shape(data=(6, 3))
    except mx.MXNetError:
        return
    known = {*ARGUMENTS, 'op_type'}
    assert all(name in known or name.startswith('__') for name in attributes)
    assert shapes[2] == [(int(attributes.get('num_class', 4)), 3)]
    assert float(attributes.get('alpha', 0)) >= 0 and float(attributes.get('scale', 0)) >= 0
    assert attributes.get('reduction', 'sum') in ('mean', 'sum', 'none')
