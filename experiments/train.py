"""Train softmax and center loss on digits with Gluon.

    python experiments/train.py --output-dir out/joint
    python experiments/train.py --loss softmax --output-dir out/softmax
    python experiments/train.py --dataset mnist --data-dir DIR --output-dir out/mnist
"""
import contextlib

import processors  # noqa: F401 - before mxnet

# isort: split
from center_loss_op.gluon import CenterLoss, CenterTrainer  # before mxnet, for newer NumPys

import checkpoint
import data
import mxnet as mx
import networks
import numpy as np
import recipe
import run
from evaluation import evaluate
from history import History
from interrupts import Interrupts
from mxnet import gluon
from options import check, parse
from workers import Workers


def train(options, each_epoch=None):
    """Train with these options and write the results to the output folder.

    Parameters
    ----------
    options : argparse.Namespace
        From `options.parse`.
    each_epoch : callable, optional
        Called after each epoch with its number, counted from 1, the embedding of the test set and
        the centers. Then there is no progress bar.

    Returns
    -------
    evaluation.Evaluation
        Of the test set.
    """
    train_set, test_set = data.load(options.dataset, options.data_dir, options.validate)
    workers = Workers(options)
    check(options, len(train_set.labels), workers.number)
    lock = (run.locked(options.output_dir, run.RESULTS) if workers.rank == 0
            else contextlib.nullcontext())
    with lock:
        return _train(options, workers, train_set, test_set, each_epoch)


def _train(options, workers, train_set, test_set, each_epoch):
    contexts = options.contexts
    steps = len(train_set.labels) // options.batch_size  # per epoch

    # The network and the losses.
    mx.random.seed(options.seed)
    net = networks.Network(data.CLASSES, options.embedding_size)
    net.initialize(networks.initializer(), ctx=contexts)
    softmax_loss = gluon.loss.SoftmaxCrossEntropyLoss()
    center_loss = CenterLoss(data.CLASSES, options.embedding_size, alpha=options.alpha,
                             prefix='center_loss_')
    center_loss.initialize(ctx=contexts)
    for block in net, softmax_loss, center_loss:
        block.hybridize()
    history = History(options.weights,
                      mx.metric.Loss(output_names=['softmax_loss'], label_names=[]),
                      mx.metric.Loss(output_names=['center_loss'], label_names=[]),
                      mx.metric.Accuracy(output_names=['scores'], label_names=['label']))

    # The checkpoint of an earlier run.
    saved = run.begin(options, workers)
    if saved is not None:
        checkpoint.restore_parameters({**net.collect_params(), **center_loss.collect_params()},
                                      {**saved.arg_params, **saved.aux_params}, saved.path)
        history.restore(saved.state['history'])

    # The optimizer.
    schedule = recipe.schedule(options.lr, options.epochs * steps)
    updates = history.epoch * steps + history.batch
    trainer = gluon.Trainer(net.collect_params(),
                            recipe.optimizer(options.batch_size, begin_num_update=updates),
                            kvstore=workers.store, update_on_kvstore=False)
    # With several devices or workers, all copies of the centers must stay equal.
    several = len(contexts) * workers.number > 1
    center_trainer = CenterTrainer(center_loss, workers.store) if several else None
    names = dict(enumerate(sorted(net.collect_params())))  # the numbers that Trainer gives them
    updaters = trainer._updaters
    if saved is not None:
        for updater in updaters:
            checkpoint.restore_optimizer(updater, names, saved.optimizer_states, saved.path)

    def save():
        return checkpoint.save(
            options.output_dir, updates,
            symbol=mx.sym.Group(net(mx.sym.var('data'))),
            arg_params={name: parameter.data(contexts[0])
                        for name, parameter in net.collect_params().items()},
            aux_params={center_loss.centers.name: center_loss.centers.data(contexts[0])},
            optimizer_states=checkpoint.optimizer_states(updaters[0], names),
            state={'options': run.fixed(options), 'history': history.state()})

    # Training.
    with Interrupts() as interrupts, run.progress(options, workers, steps, updates,
                                                  each_epoch is None) as bar:
        while history.epoch < options.epochs:
            history.start()
            for batch in data.batches(train_set, options.batch_size, options.seed,
                                      history.epoch, history.batch, options.shift):
                images, labels = workers.part(batch)
                parts = zip(gluon.utils.split_and_load(images, contexts, even_split=False),
                            gluon.utils.split_and_load(labels, contexts, even_split=False))
                updates += 1
                softmax_weight, center_weight = history.weights = recipe.weights(
                    options, updates, options.epochs * steps)
                losses, outputs = [], []
                with mx.autograd.record():
                    for x, y in parts:
                        embedding, scores = net(x)
                        softmax, center = softmax_loss(scores, y), center_loss(embedding, y)
                        losses.append(softmax_weight * softmax + center_weight * center)
                        outputs.append((y, softmax, center, scores))
                mx.autograd.backward(losses)
                trainer.set_learning_rate(schedule(updates))
                trainer.step(1)  # the optimizer divides by the batch size
                if center_trainer:
                    center_trainer.step()
                for y, softmax, center, scores in outputs:
                    history.metrics.update_dict(
                        {'label': y},
                        {'softmax_loss': softmax, 'center_loss': center, 'scores': scores})
                history.step()
                bar.set_postfix(history.short(), refresh=False)
                bar.update()
                if interrupts.received and workers.rank == 0:
                    run.leave(interrupts.received, save())
            run.check_finite(history)
            embedding, scores = predict(net, test_set.images, options.batch_size, contexts[0])
            if each_epoch:
                each_epoch(history.epoch + 1, embedding,
                           center_loss.centers.data(contexts[0]).asnumpy())
            history.end_epoch(float((scores.argmax(axis=1) == test_set.labels).mean()),
                              trainer.learning_rate)
            if workers.rank == 0:
                path = save()
                run.write(options, 'history.csv', history.csv())
                if interrupts.received:
                    run.leave(interrupts.received, path)

    # Results.
    embedding, scores = predict(net, test_set.images, options.batch_size, contexts[0])
    centers = center_loss.centers.data(contexts[0]).asnumpy()
    return run.finish(options, workers, history,
                      evaluate(embedding, scores, test_set.labels, centers))


def predict(net, images, batch_size, context):
    """The embeddings and the scores of images, as NumPy arrays."""
    outputs = [net(mx.nd.array(images[start:start + batch_size], ctx=context))
               for start in range(0, len(images), batch_size)]
    return [np.concatenate([part.asnumpy() for part in parts]) for parts in zip(*outputs)]


if __name__ == '__main__':
    run.script(lambda: train(parse(description=__doc__.splitlines()[0])))
