"""A joint training of a few steps on any number of workers and contexts, and what can befall one.

Started by a launcher of workers, it writes all parameters of its worker, one array per context, to
`<folder>/<rank>.npz`. Every way to train must end with the parameters of `train_alone`.
"""
import argparse
import importlib
import json
import os
import signal
import subprocess
import sys

import center_loss_op  # before mxnet, for newer NumPys
from center_loss_op.symbol import center_loss

import mxnet as mx
import numpy as np

STEPS, BATCH, SIZE, CLASSES, RATE = 12, 48, 6, 5, 0.5
# Embedding sizes, weights and rates of the two center losses.
FIRST, SECOND = (4, 0.3, 0.5), (3, 0.1, 0.7)
FAULT_STEP = 5


def batches():
    """The global batches: (STEPS, BATCH, SIZE) and (STEPS, BATCH)."""
    random = np.random.RandomState(5)
    return (random.randn(STEPS, BATCH, SIZE).astype(np.float32),
            random.randint(0, CLASSES, (STEPS, BATCH)).astype(np.float32))


class Net(mx.gluon.nn.HybridBlock):
    """Features for two center losses, and scores."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.first = mx.gluon.nn.Dense(FIRST[0], in_units=SIZE)
            self.second = mx.gluon.nn.Dense(SECOND[0], in_units=FIRST[0])
            self.scores = mx.gluon.nn.Dense(CLASSES, in_units=SECOND[0])

    def hybrid_forward(self, F, data):
        first = self.first(data)
        second = self.second(F.tanh(first))
        return first, second, self.scores(second)


class Gluon:
    """The training with Gluon. Two losses, each with a trainer of its own."""

    def __init__(self, contexts, seed=7):
        self.contexts = contexts
        mx.random.seed(seed)
        self.net = Net(prefix='net_')
        self.losses = [center_loss_op.gluon.CenterLoss(CLASSES, size, alpha=alpha, weight=weight,
                                                       prefix='center%d_' % size)
                       for size, weight, alpha in (FIRST, SECOND)]
        for block in (self.net, *self.losses):
            block.initialize(mx.init.Uniform(0.5), ctx=contexts)
            block.hybridize()
        self.softmax = mx.gluon.loss.SoftmaxCrossEntropyLoss()

    def run(self, trainer, divisor, center_trainers, slices, before_step=None):
        """All steps; `slices` has the rows of each context, `divisor` is what `step` takes."""
        for step, (x, y) in enumerate(zip(*batches())):
            if before_step:
                before_step(step, y)
            outs = []
            with mx.autograd.record():
                for (first, last), context in zip(slices, self.contexts):
                    data = mx.nd.array(x[first:last], ctx=context)
                    label = mx.nd.array(y[first:last], ctx=context)
                    features = self.net(data)
                    outs.append(self.softmax(features[2], label)
                                + self.losses[0](features[0], label)
                                + self.losses[1](features[1], label))
            mx.autograd.backward(outs)
            trainer.step(divisor)
            for center_trainer in center_trainers:
                center_trainer.step()

    def parameters(self):
        """{name: [array of each context]}"""
        return {name: [copy.asnumpy() for copy in parameter.list_data()]
                for block in (self.net, *self.losses)
                for name, parameter in block.collect_params().items()}


def train_alone():
    """One process, one context: the operator itself moves the centers."""
    training = Gluon([mx.cpu()])
    trainer = mx.gluon.Trainer(training.net.collect_params(), 'sgd', {'learning_rate': RATE})
    training.run(trainer, BATCH, [], [(0, BATCH)])
    return training.parameters()


def train_by_store(store, contexts, slices, before_step):
    """The store for all trainers, as with 'dist_sync': it sums, so `step` takes the whole batch."""
    training = Gluon(contexts)  # its trainer sends rank 0's weights after the first backward pass
    trainer = mx.gluon.Trainer(training.net.collect_params(), 'sgd', {'learning_rate': RATE},
                               kvstore=store, update_on_kvstore=False)
    training.run(trainer, BATCH,
                 [center_loss_op.gluon.CenterTrainer(loss, store) for loss in training.losses],
                 slices, before_step)
    return training.parameters()


def train_by_horovods_trainer(store, contexts, slices, before_step):
    """Beside Horovod's trainer, which averages: `step` takes a worker's part of the batch."""
    import horovod.mxnet as hvd
    training = Gluon(contexts, seed=7 + store.rank)
    hvd.broadcast_parameters(training.net.collect_params())
    trainer = hvd.DistributedTrainer(training.net.collect_params(), 'sgd',
                                     {'learning_rate': RATE})
    training.run(trainer, BATCH // store.num_workers,
                 [center_loss_op.gluon.CenterTrainer(loss, store) for loss in training.losses],
                 slices, before_step)
    return training.parameters()


def module_graph(keys):
    """The same network and losses as a symbol."""
    label = mx.sym.var('softmax_label')
    first = mx.sym.FullyConnected(mx.sym.var('data'), num_hidden=FIRST[0], name='first')
    second = mx.sym.FullyConnected(mx.sym.tanh(first), num_hidden=SECOND[0], name='second')
    scores = mx.sym.FullyConnected(second, num_hidden=CLASSES, name='scores')
    return mx.sym.Group([mx.sym.SoftmaxOutput(scores, label, name='softmax')] + [
        center_loss(features, label, CLASSES, alpha=alpha, scale=weight, reduction='none',
                    name='center%d' % size, key='center%d' % size if keys else '')
        for features, (size, weight, alpha) in ((first, FIRST), (second, SECOND))])


def fit_module(contexts, slices, kvstore, optimizer, center_trainers, **settings):
    """Module.fit: {name: [array of each context]}"""
    first, last = slices[0][0], slices[-1][1]
    x, y = batches()
    feed = mx.io.NDArrayIter(x[:, first:last].reshape(-1, SIZE), y[:, first:last].reshape(-1),
                             last - first)
    module = mx.mod.Module(module_graph(bool(center_trainers)), context=contexts)
    mx.random.seed(7)  # Module sends nobody's parameters to the others
    names = module.symbol.list_arguments()[:] + module.symbol.list_auxiliary_states()
    copies = {}

    def at_batch_end(param):
        for center_trainer in center_trainers:
            center_trainer(param)
        mx.nd.waitall()
        for name in names:  # before the end of the epoch, when Module averages the copies
            copies[name] = [{**executor.arg_dict, **executor.aux_dict}[name].asnumpy()
                            for executor in module._exec_group.execs]

    module.fit(feed, num_epoch=1, kvstore=kvstore, optimizer=optimizer,
               initializer=mx.init.Uniform(0.5), batch_end_callback=at_batch_end,
               eval_metric=mx.metric.Accuracy(output_names=['softmax_output']), **settings)
    return {name: copy for name, copy in copies.items() if name not in ('data', 'softmax_label')}


def fit_alone():
    """One process, one context."""
    return fit_module([mx.cpu()], [(0, BATCH)], 'local', 'sgd', [],
                      optimizer_params={'learning_rate': RATE})


def fit_by_store(store, contexts, slices, _):
    """Module brings its store along."""
    trainers = [center_loss_op.module.CenterTrainer('center%d' % size) for size, *_ in
                (FIRST, SECOND)]
    return fit_module(contexts, slices, store, 'sgd', trainers,
                      optimizer_params={'learning_rate': RATE})


def fit_by_horovods_optimizer(store, contexts, slices, _):
    """Beside Horovod's optimizer, which averages; Module itself has no store."""
    import horovod.mxnet as hvd
    trainers = [center_loss_op.module.CenterTrainer('center%d' % size, store) for size, *_ in
                (FIRST, SECOND)]
    optimizer = hvd.DistributedOptimizer(mx.optimizer.SGD(
        learning_rate=RATE, rescale_grad=store.num_workers / BATCH))
    return fit_module(contexts, slices, None, optimizer, trainers)


WAYS = {'store': train_by_store, 'trainer': train_by_horovods_trainer,
        'module': fit_by_store, 'optimizer': fit_by_horovods_optimizer}


def check(way, folder, workers, contexts):
    """Compare what the workers have written with one process, and one another bit for bit."""
    alone = (train_alone if way in ('store', 'trainer') else fit_alone)()
    found = [dict(np.load(str(folder / f'{rank}.npz'))) for rank in range(workers)]
    for name, (value,) in alone.items():
        copies = np.concatenate([of_one.pop(name) for of_one in found])
        assert len(copies) == workers * contexts
        for copy in copies[1:]:
            np.testing.assert_array_equal(copy.view(np.uint32), copies[0].view(np.uint32), name)
        np.testing.assert_allclose(copies[0], value, rtol=2e-6, atol=1e-6, err_msg=name)
    assert found == [{}] * workers


def befall(fault, labels):
    """What befalls a worker."""
    if fault == 'die':
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == 'leave':
        sys.exit(0)
    if fault == 'fail':
        raise RuntimeError('a fault of its own')
    labels[-1] = CLASSES    # 'mislabel'


def run_shielded(program, folder):
    """Run a program out of reach of horovodrun, which ends all workers with the first.

    What becomes of it goes to `<folder>/<rank>.json`.
    """
    try:
        done = subprocess.run([sys.executable, *program], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=60, universal_newlines=True,
                              check=False)
        result = {'code': done.returncode, 'output': done.stdout}
    except subprocess.TimeoutExpired:
        result = {'code': 'hung', 'output': ''}
    path = os.path.join(folder, os.environ['HOROVOD_RANK'] + '.json')
    with open(path, 'w', encoding='utf-8') as file:
        json.dump(result, file)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('way', choices=WAYS)
    parser.add_argument('folder')
    parser.add_argument('--contexts', type=int, default=1)
    parser.add_argument('--kv-store', default='horovod')
    parser.add_argument('--fault', help='what befalls the last worker')
    parser.add_argument('--shielded', action='store_true')
    parser.add_argument('--program', default=__file__, help='what to run shielded')
    args = parser.parse_args()
    if args.shielded:
        run_shielded([args.program] + [one for one in sys.argv[1:] if one != '--shielded'],
                     args.folder)
        return
    if args.kv_store == 'horovod':
        importlib.import_module('center_loss_op.horovod')  # makes the name known to MXNet
    store = mx.kv.create(args.kv_store)
    parts = np.array_split(range(BATCH), store.num_workers * args.contexts)
    mine = parts[store.rank * args.contexts:][:args.contexts]

    def before_step(step, labels):
        if args.fault and step == FAULT_STEP and store.rank == store.num_workers - 1:
            befall(args.fault, labels)

    parameters = WAYS[args.way](store, [mx.cpu(i) for i in range(args.contexts)],
                                [(part[0], part[-1] + 1) for part in mine], before_step)
    np.savez(os.path.join(args.folder, f'{store.rank}.npz'),
             **{name: np.stack(copies) for name, copies in parameters.items()})


if __name__ == '__main__':
    main()
