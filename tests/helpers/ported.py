"""Graphs, trainings and checkpoints of the ported implementation."""
import json

import mxnet as mx
import numpy as np

SAMPLES, SIZE, EMBEDDING, CLASSES = 8, 5, 3, 4
ALPHA, SCALE = 0.5, 0.3


def network(form, **arguments):
    """A graph as training scripts write it: 'grouped', or with 'MakeLoss' and a second label."""
    label = mx.sym.var('softmax_label')
    embedding = mx.sym.FullyConnected(mx.sym.var('data'), num_hidden=EMBEDDING, name='embedding')
    scores = mx.sym.FullyConnected(embedding, num_hidden=CLASSES, name='fc2')
    softmax = mx.sym.SoftmaxOutput(data=scores, label=label, name='softmax')
    center = mx.sym.Custom(
        data=embedding, label=label if form == 'grouped' else mx.sym.var('center_label'),
        name='center_loss', op_type='centerloss', num_class=CLASSES, alpha=ALPHA, scale=SCALE,
        **(arguments or {'batchsize': SAMPLES}))
    if form != 'grouped':
        center = mx.sym.MakeLoss(name='made_loss', data=center)
    return mx.sym.Group([softmax, center])


def parameters():
    """Random ones: those of the layers, and the states of the ported implementation."""
    random = np.random.RandomState(0)
    shapes = {'embedding_weight': (EMBEDDING, SIZE), 'embedding_bias': (EMBEDDING,),
              'fc2_weight': (CLASSES, EMBEDDING), 'fc2_bias': (CLASSES,)}
    states = {'center_loss_diff_bias': (SAMPLES, EMBEDDING),
              'center_loss_center_bias': (CLASSES, EMBEDDING),
              'center_loss_sum_bias': (EMBEDDING,)}
    return [{name: mx.nd.array(random.standard_normal(shape)) for name, shape in part.items()}
            for part in (shapes, states)]


def iterator(form='grouped'):
    """Three batches, with a label for each loss."""
    random = np.random.RandomState(1)
    data, label = random.standard_normal((3 * SAMPLES, SIZE)), random.randint(
        0, CLASSES, 3 * SAMPLES)
    labels = {'softmax_label': label, **({} if form == 'grouped' else {'center_label': label})}
    return mx.io.NDArrayIter(data.astype('float32'), labels, batch_size=SAMPLES)


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


def ported(folder, prefix='ported', epoch=3, form='grouped', dialect='0.9'):
    """A checkpoint of the ported implementation: its prefix."""
    (folder / f'{prefix}-symbol.json').write_text(json.dumps(nodes_of(form, dialect)))
    args, states = parameters()
    mx.nd.save(str(folder / f'{prefix}-{epoch:04d}.params'),
               {**{'arg:' + name: value for name, value in args.items()},
                **{'aux:' + name: value for name, value in states.items()}})
    return str(folder / prefix)
