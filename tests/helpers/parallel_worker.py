"""A run of 50 steps that moves centers, on any number of contexts and workers.

Run as a program (by the tests, or by the launcher) it writes the copies of its worker to
`<folder>/<rank>.npz`. Every split of the same global batches has to end with the same centers.
"""
import argparse
import importlib
import os

import center_loss_op  # before mxnet, for newer NumPys
from center_loss_op.symbol import center_loss

import mxnet as mx
import numpy as np

STEPS, BATCH, SIZE, CLASSES, ALPHA = 50, 64, 5, 7, 0.5


def batches():
    """The global batches: (STEPS, BATCH, SIZE) and (STEPS, BATCH)."""
    random = np.random.RandomState(3)
    return (random.randn(STEPS, BATCH, SIZE).astype(np.float32),
            random.randint(0, CLASSES, (STEPS, BATCH)).astype(np.float32))


def naive_centers():
    """The centers after all steps, in float64, a class and a sample at a time."""
    features, labels = batches()
    centers = np.zeros((CLASSES, SIZE))
    for x, y in zip(features.astype(np.float64), labels):
        for j in range(CLASSES):
            mine = [x[i] for i in range(BATCH) if y[i] == j]
            centers[j] -= ALPHA * sum(centers[j] - one for one in mine) / (1 + len(mine))
    return centers


def check_one_set(copies):
    """Bit-identical to each other, and what the naive oracle says of the global batches."""
    for other in copies[1:]:
        np.testing.assert_array_equal(other.view(np.uint32), copies[0].view(np.uint32))
    np.testing.assert_allclose(copies[0], naive_centers(), rtol=1e-5, atol=1e-6)


def bounds(slices):
    """(first, last) of each slice."""
    ends = np.cumsum(slices)
    return list(zip(ends - slices, ends))


def run_gluon(mine, store=None, synchronize=True):
    """Train on contexts cpu(0), cpu(1), ...; `mine` has the (first, last) rows of each.

    A distributed `store` serves a network's Trainer too, as in a real training.
    """
    contexts = [mx.cpu(i) for i in range(len(mine))]
    seen = any(last > first for first, last in mine)  # or d would never be inferred
    loss = center_loss_op.gluon.CenterLoss(CLASSES, 0 if seen else SIZE, alpha=ALPHA, weight=0.1,
                                           prefix='test_')
    # Copies that start apart must be made equal.
    mx.random.seed(store.rank if store else 0)
    loss.initialize(mx.init.Zero() if not store or store.rank == 0 else mx.init.One(), ctx=contexts)
    net = mx.gluon.nn.Dense(2, in_units=2)
    net.initialize(ctx=contexts)
    trainer = mx.gluon.Trainer(net.collect_params(), 'sgd', kvstore=store or 'device',
                               update_on_kvstore=False)
    if synchronize:
        center_trainer = center_loss_op.gluon.CenterTrainer(loss, store or 'device')
    for x, y in zip(*batches()):
        losses = []
        with mx.autograd.record():
            for (first, last), context in zip(mine, contexts):
                if last > first:
                    data = mx.nd.array(x[first:last], ctx=context)
                    label = mx.nd.array(y[first:last], ctx=context)
                    data.attach_grad()
                    losses.append(loss(data, label))
                losses.append(net(mx.nd.ones((1, 2), ctx=context)))
        mx.autograd.backward(losses)
        trainer.step(BATCH)
        if synchronize:
            center_trainer.step()
    return [copy.asnumpy() for copy in loss.centers.list_data()]


class Buckets(mx.io.NDArrayIter):
    """Every other batch is of another bucket."""

    def next(self):
        batch = super().next()
        batch.bucket_key = self.cursor // self.batch_size % 2
        batch.provide_data, batch.provide_label = self.provide_data, self.provide_label
        return batch


def run_module(mine, store=None, synchronize=True, buckets=False):
    """The same with `Module.fit`; the slices of the contexts follow each other."""
    contexts = [mx.cpu(i) for i in range(len(mine))]
    first, last = mine[0][0], mine[-1][1]
    features, labels = batches()
    data = mx.sym.Variable('data')
    label = mx.sym.Variable('softmax_label')
    # A layer that needs a gradient, so that there is a backward pass, but leaves the data alone.
    embedding = mx.sym.broadcast_mul(data, mx.sym.Variable('one', shape=(1, SIZE),
                                                           init=mx.init.One()))
    softmax = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(data, num_hidden=CLASSES), label,
                                   name='softmax')
    loss = center_loss(embedding, label, CLASSES, alpha=ALPHA, name='center_loss',
                       key='test' if synchronize else '')
    symbol = mx.sym.Group([softmax, loss])
    settings = {'context': contexts, 'work_load_list': [b - a for a, b in mine]}
    if buckets:
        module = mx.mod.BucketingModule(lambda key: (symbol, ['data'], ['softmax_label']), 0,
                                        **settings)
    else:
        module = mx.mod.Module(symbol, **settings)
    kind = Buckets if buckets else mx.io.NDArrayIter
    batch = kind(features[:, first:last].reshape(-1, SIZE), labels[:, first:last].reshape(-1),
                 last - first)
    copies = []
    center_trainer = center_loss_op.module.CenterTrainer('test') if synchronize else None

    def at_batch_end(param):
        if synchronize:
            center_trainer(param)
        # Before the end of the epoch, when Module averages the copies.
        current = module._curr_module if buckets else module
        copies[:] = [executor.aux_dict['center_loss_center_bias'].asnumpy()
                     for executor in current._exec_group.execs]

    module.fit(batch, num_epoch=1, kvstore=store or 'local', batch_end_callback=at_batch_end,
               optimizer_params={'learning_rate': 0},
               eval_metric=mx.metric.Accuracy(output_names=['softmax_output']))
    return copies


def run_buckets(mine, store=None, synchronize=True):
    """The same with a BucketingModule."""
    return run_module(mine, store, synchronize, buckets=True)


RUNS = {'gluon': run_gluon, 'module': run_module, 'buckets': run_buckets}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('api', choices=RUNS)
    parser.add_argument('folder')
    parser.add_argument('--contexts', type=int, default=1)
    parser.add_argument('--kv-store', default='dist_sync')
    parser.add_argument('--alone', action='store_true')
    parser.add_argument('--slices', type=int, nargs='*', help='how many samples each context gets')
    args = parser.parse_args()
    if args.kv_store == 'horovod':  # a name that MXNet does not have before
        importlib.import_module('center_loss_op.horovod')
    center_loss_op._operator.gather._CHUNK = 4  # so that making the copies equal takes several sums
    store = mx.kv.create(args.kv_store)
    slots = store.num_workers * args.contexts
    all_slices = bounds(args.slices or [len(part) for part in np.array_split(range(BATCH), slots)])
    mine = all_slices[store.rank * args.contexts:][:args.contexts]
    copies = RUNS[args.api](mine, store, synchronize=not args.alone)
    np.savez(os.path.join(args.folder, '%d.npz' % store.rank), *copies)


if __name__ == '__main__':
    main()
