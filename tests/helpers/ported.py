"""Graphs, trainings and checkpoints of the ported implementation."""
import json

import mxnet as mx
import numpy as np

SAMPLES, SIZE, EMBEDDING, CLASSES = 8, 5, 3, 4
RATE, ALPHA, SCALE = 0.1, 0.5, 0.3


def network(form):
    """A graph as training scripts write it: 'grouped', or with 'MakeLoss' and a second label."""
    label = mx.symbol.Variable('softmax_label')
    embedding = mx.symbol.FullyConnected(mx.symbol.Variable('data'), num_hidden=EMBEDDING,
                                         name='embedding')
    scores = mx.symbol.FullyConnected(embedding, num_hidden=CLASSES, name='fc2')
    softmax = mx.symbol.SoftmaxOutput(data=scores, label=label, name='softmax')
    if form == 'grouped':
        center = mx.symbol.Custom(data=embedding, label=label, name='center_loss',
                                  op_type='centerloss', num_class=CLASSES, alpha=ALPHA,
                                  scale=SCALE, batchsize=SAMPLES)
    else:
        center = mx.symbol.Custom(data=embedding, label=mx.symbol.Variable('center_label'),
                                  name='center_loss', op_type='centerloss', num_class=CLASSES,
                                  alpha=ALPHA, scale=SCALE, batchsize=SAMPLES)
        center = mx.symbol.MakeLoss(name='made_loss', data=center)
    return mx.symbol.Group([softmax, center])


class Naive:
    """Training of that graph in float64, one sample at a time: plain SGD."""

    def __init__(self, seed=0):
        rng = np.random.RandomState(seed)
        self.data = rng.standard_normal((3 * SAMPLES, SIZE)).astype('float32')
        self.label = rng.randint(0, CLASSES, 3 * SAMPLES).astype('float32')
        self.weights = {'embedding_weight': rng.standard_normal((EMBEDDING, SIZE)),
                        'embedding_bias': rng.standard_normal(EMBEDDING),
                        'fc2_weight': rng.standard_normal((CLASSES, EMBEDDING)),
                        'fc2_bias': rng.standard_normal(CLASSES)}
        self.centers = rng.standard_normal((CLASSES, EMBEDDING))

    def arg_params(self):
        return {name: mx.nd.array(value) for name, value in self.weights.items()}

    def aux_params(self):
        """The states of the ported implementation."""
        return {'center_loss_diff_bias': mx.nd.ones((SAMPLES, EMBEDDING)),
                'center_loss_center_bias': mx.nd.array(self.centers),
                'center_loss_sum_bias': mx.nd.ones((EMBEDDING,))}

    def iterator(self, form):
        labels = {'softmax_label': self.label}
        if form != 'grouped':
            labels['center_label'] = self.label
        return mx.io.NDArrayIter(self.data, labels, batch_size=SAMPLES)

    def step(self, start):
        grads = {name: np.zeros_like(value) for name, value in self.weights.items()}
        sums, counts = np.zeros_like(self.centers), np.zeros(CLASSES)
        for sample in range(start, start + SAMPLES):
            x, y = self.data[sample].astype('float64'), int(self.label[sample])
            embedding = self.weights['embedding_weight'] @ x + self.weights['embedding_bias']
            scores = np.exp(self.weights['fc2_weight'] @ embedding + self.weights['fc2_bias'])
            wrong = scores / scores.sum() - np.eye(CLASSES)[y]
            pull = embedding - self.centers[y]
            back = self.weights['fc2_weight'].T @ wrong + SCALE / SAMPLES * pull
            grads['embedding_weight'] += np.outer(back, x)
            grads['embedding_bias'] += back
            grads['fc2_weight'] += np.outer(wrong, embedding)
            grads['fc2_bias'] += wrong
            sums[y] += pull
            counts[y] += 1
        for name in self.weights:
            self.weights[name] = self.weights[name] - RATE / SAMPLES * grads[name]
        self.centers = self.centers + ALPHA * sums / (1 + counts)[:, None]

    def epoch(self):
        for start in range(0, len(self.data), SAMPLES):
            self.step(start)

    def check(self, arg_params, aux_params):
        assert set(aux_params) == {'center_loss_center_bias'}
        for name, value in {**self.weights, 'center_loss_center_bias': self.centers}.items():
            np.testing.assert_allclose({**arg_params, **aux_params}[name].asnumpy(), value,
                                       rtol=1e-4, atol=1e-5, err_msg=name)


def nodes_of(form, dialect):
    """The JSON of `network(form)` as the ported implementation wrote it, made by hand.

    `dialect` is the release of MXNet: what holds the attributes, and how inputs are written,
    changed. Before 0.9 auxiliary states were no nodes.
    """
    key = {'1.9': 'attrs', '0.9': 'attr', '0.8': 'param'}[dialect]
    center = {'num_class': str(CLASSES), 'alpha': str(ALPHA), 'scale': str(SCALE),
              'batchsize': str(SAMPLES), 'op_type': 'centerloss'}
    nodes = []

    def add(name, op='null', inputs=(), attributes=None):
        rank = 2 if dialect == '0.8' else 3
        nodes.append({'op': op, 'name': name, key: attributes or {},
                      'inputs': [[index, 0, 0][:rank] for index in inputs]})
        return len(nodes) - 1

    data, weight, bias = map(add, ('data', 'embedding_weight', 'embedding_bias'))
    embedding = add('embedding', 'FullyConnected', (data, weight, bias),
                    {'num_hidden': str(EMBEDDING)})
    weight, bias = map(add, ('fc2_weight', 'fc2_bias'))
    scores = add('fc2', 'FullyConnected', (embedding, weight, bias),
                 {'num_hidden': str(CLASSES)})
    label = add('softmax_label')
    softmax = add('softmax', 'SoftmaxOutput', (scores, label))
    if form != 'grouped':
        label = add('center_label')
    inputs = [embedding, label]
    if dialect != '0.8':
        inputs += [add('center_loss_' + state, attributes=center)
                   for state in ('diff_bias', 'center_bias', 'sum_bias')]
    last = add('center_loss', 'Custom', inputs, center)
    if form != 'grouped':
        last = add('made_loss', 'MakeLoss', [last])
    graph = {'nodes': nodes, 'heads': [[softmax, 0], [last, 0]],
             'arg_nodes': [index for index, node in enumerate(nodes) if node['op'] == 'null']}
    if dialect != '0.8':
        graph['attrs'] = {'mxnet_version': ['int', {'1.9': 10901, '0.9': 905}[dialect]]}
    return graph


def ported(folder, naive, prefix='ported', epoch=3, form='grouped', dialect='0.9'):
    """A checkpoint of the ported implementation: its prefix."""
    (folder / f'{prefix}-symbol.json').write_text(json.dumps(nodes_of(form, dialect)))
    mx.nd.save(str(folder / f'{prefix}-{epoch:04d}.params'),
               {**{'arg:' + name: value for name, value in naive.arg_params().items()},
                **{'aux:' + name: value for name, value in naive.aux_params().items()}})
    return str(folder / prefix)
