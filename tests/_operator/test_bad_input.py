"""Bad input through every entry: a clear error, nothing lost, and the next good batch trains."""
import json
import re

import hypothesis
import mxnet as mx
import numpy as np
import pytest
from cases import ARGUMENTS, batch, message
from entries import block, run_block
from hypothesis import strategies as st
from numpy.testing import assert_allclose
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

CHILD = '''
import json, logging, sys
import center_loss_op
import mxnet as mx

logged = []
handler = logging.Handler()
handler.emit = lambda record: logged.append(record.getMessage())
logging.getLogger('center_loss_op').addHandler(handler)
data, label = mx.sym.var('data'), mx.sym.var('label')
x, y, centers = mx.nd.ones((2, 2)), mx.nd.array([0, 1]), mx.nd.zeros((3, 2))

def symbol(**attributes):
    return mx.sym.Custom(data, label, op_type='centerloss', **attributes)

def from_json(**attributes):
    graph = json.loads(symbol(num_class=3).tojson())
    graph['nodes'][-1]['attrs'] = {'op_type': 'centerloss', **attributes}
    mx.sym.load_json(json.dumps(graph))

def array(y=y, **attributes):
    return mx.nd.Custom(x, y, centers, op_type='centerloss', **attributes).asnumpy()

for number, case in enumerate(json.loads(sys.argv[1])):
    name, value = case.split('=')
    attributes = {'num_class': '3', name: value}
    if value == 'missing':
        del attributes[name]
    logged.clear()
    try:
        [symbol, from_json, array][number % 3](**attributes)
        logged.append('no exception')
    except mx.MXNetError:
        pass
    # Good arguments still work, and nothing has moved.
    assert array(num_class=3) == 1 and not centers.asnumpy().any()
    print('RESULT', json.dumps([case, logged]), flush=True)
try:
    array(mx.nd.array([0, 5]), num_class=3)
except mx.MXNetError:
    pass
'''


def test_bad_arguments(child):
    cases = [*MESSAGES, *['beta=1'] * 3]    # all doors lead to one parser, so each case takes one
    done = child(CHILD, json.dumps(cases))
    answers = [json.loads(line[7:]) for line in done.stdout.splitlines() if line[:7] == 'RESULT ']
    assert done.returncode == 0, done.stderr[-2000:]
    assert [case for case, _ in answers] == cases
    for case, logged in answers:
        assert logged[0].startswith(MESSAGES[case]), (case, logged)
    # MXNet prints what it swallows; the same text is documented to be there.
    for text in (*MESSAGES.values(), 'LabelError: label[1] is 5.0, but a label must be a whole'):
        assert text in done.stderr + done.stdout


# -- at Gluon's door


@pytest.mark.parametrize('data, label, text', [
    (np.ones((6, 3, 3)), LABEL, 'embedding must be 2-D, (batch, features), got shape (6, 3, 3); '
     'label has shape (6,). If each position of a sequence or a feature map is a sample, reshape '
     "to two axes: 'Use sequences or feature maps' in docs/using.md shows how"),
    (np.ones((6, 3, 1, 1)), LABEL, 'Leave the axes of length 1 out: give embedding.flatten()'),
    (np.ones((5, 3)), LABEL,
     'label must have shape (5,) or (5, 1) to fit embedding of shape (5, 3), got shape (6,)'),
    (np.ones((6, 3)), np.ones((6, 2)), 'to fit embedding of shape (6, 3), got shape (6, 2)'),
    (np.ones((6, 3)), np.ones((6, 4)), 'to fit embedding of shape (6, 3), got shape (6, 4). If '
     'these are one-hot labels, give their classes: label.argmax(axis=1)'),
    (np.ones((6, 5)), LABEL, 'embedding has 5 features a sample, but in_units is 3'),
    (np.ones((6, 3), 'int32'), LABEL, 'embedding must be float16, float32 or float64, got int32'),
    (np.ones((6, 3), 'float64'), LABEL, "embedding is float64, but the centers are float32: write "
     "center_loss.cast('float64') before, or give embedding.astype('float32'). See docs/using.md")])
def test_bad_shape_or_type_in_gluon(data, label, text):
    """At the call, in the names of its arguments; the block goes on."""
    loss = block(CENTERS, hybridize=True)
    data = data.astype('float32') if data.shape != (6, 3) or label.shape != (6,) else data
    with pytest.raises((TypeError, ValueError), match=re.escape(text) + '$'):
        run_block(loss, data, label)
    want = center_loss(DATA, LABEL, CENTERS, reduction='none')
    for value, expected in zip(run_block(loss, DATA, LABEL), want):
        assert_allclose(value, expected, rtol=1e-5)


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
