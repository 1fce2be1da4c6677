"""Softmax and center loss on digits with Module: the same as train.py, as a symbol graph.

    python experiments/train_symbol.py --output-dir out/joint
    python experiments/train_symbol.py --loss softmax --output-dir out/softmax
    python experiments/train_symbol.py --dataset mnist --data-dir DIR --output-dir out/mnist
"""
import os
from unittest import mock

os.environ.setdefault('MXNET_SUBGRAPH_VERBOSE', '0')

import processors  # before mxnet; pylint: disable=unused-import
from center_loss_op.module import CenterTrainer  # before mxnet, for newer NumPys
import mxnet as mx
from center_loss_op.symbol import center_loss

import checkpoint
import data
import networks
import options as cli
import recipe
import run
from evaluation import evaluate
from history import History
from interrupts import Interrupts

CENTERS = 'center_loss_center_bias'


def several(options):
    """Whether several devices or workers train, whose copies of the centers must move as one."""
    return len(options.contexts) * options.workers.number > 1


def graph(options):
    """Images and labels → class probabilities, center loss of each sample, embedding."""
    embedding, scores = networks.network(mx.sym.var('data'), data.CLASSES, options.embedding_size)
    label = mx.sym.var('label')
    softmax = mx.sym.SoftmaxOutput(scores, label, grad_scale=options.weights[0], name='softmax')
    # One loss a sample, so that Module can cut a batch for several devices and join the rest. With
    # need_top_grad λ is the gradient of the output, for it changes; one that does not is `scale`.
    center = center_loss(embedding, label, data.CLASSES, alpha=options.alpha, reduction='none',
                         need_top_grad=True, name='center_loss',
                         key='center_loss' if several(options) else '')
    return mx.sym.Group([softmax, center, mx.sym.BlockGrad(embedding, name='features')])


def head_gradients(options, samples, center_weight):
    """The gradients of the graph's outputs. Only center loss reads its own."""
    return [mx.nd.zeros((samples, data.CLASSES)), mx.nd.full(samples, center_weight),
            mx.nd.zeros((samples, options.embedding_size))]


def train(options):
    """Train as the options say and leave the results in the output folder.

    Parameters
    ----------
    options : argparse.Namespace
        From `options.parse`.

    Returns
    -------
    evaluation.Evaluation
        Of the test set.
    """
    train_set, test_set = data.load(options.dataset, options.data_dir, options.validate)
    cli.check(options, len(train_set.labels))
    workers = options.workers
    steps = len(train_set.labels) // options.batch_size  # of an epoch

    # The network and the losses.
    module = mx.mod.Module(graph(options), data_names=['data'], label_names=['label'],
                           context=options.contexts)
    share = options.batch_size // workers.number
    module.bind([('data', (share,) + train_set.images.shape[1:])], [('label', (share,))])
    history = History(
        options.weights,
        mx.metric.CrossEntropy(output_names=['softmax_output'], label_names=['label']),
        mx.metric.Loss(output_names=['center_loss_output'], label_names=[]),
        mx.metric.Accuracy(output_names=['softmax_output'], label_names=['label']))

    # Initial values, or where an earlier run stopped.
    saved = run.begin(options)
    if saved is None:
        mx.random.seed(options.seed)
        module.init_params(networks.initializer())
    else:
        module.set_params(saved.arg_params, saved.aux_params)
        history.restore(saved.state['history'])

    # The optimizer.
    schedule = recipe.schedule(options.lr, options.epochs * steps)
    updates = history.epoch * steps + history.batch
    optimizer = recipe.optimizer(options.batch_size, begin_num_update=updates,
                                 sym=module.symbol)
    # Optimizer and its state stay with the module, where a checkpoint can reach them.
    with mock.patch.dict(os.environ, MXNET_UPDATE_ON_KVSTORE='0'):
        module.init_optimizer(kvstore=workers.store, optimizer=optimizer)
    center_trainer = None
    if several(options):
        center_trainer = CenterTrainer('center_loss',
                                       'device' if workers.number > 1 else workers.store)
    names = [name for name in module.symbol.list_arguments() if name not in ('data', 'label')]
    updater, copies = module._updater, len(options.contexts)  # pylint: disable=protected-access
    if saved is not None:
        checkpoint.restore_optimizer(updater, names, saved.optimizer_states, copies)

    def save():
        arg_params, aux_params = module.get_params()
        return checkpoint.save(
            options.output_dir, updates, module.symbol, arg_params, aux_params,
            checkpoint.optimizer_states(updater, names, copies),
            state={'options': run.fixed(options), 'history': history.state()})

    # Training. Module.fit begins every epoch at its first batch; a run that goes on where it was
    # interrupted needs a loop of its own.
    with Interrupts() as interrupts, run.progress(options, steps, updates) as bar:
        while history.epoch < options.epochs:
            history.start()
            for batch in data.batches(train_set, options.batch_size, options.seed,
                                      history.epoch, history.batch, options.shift):
                images, labels = workers.part(batch)
                batch = mx.io.DataBatch([mx.nd.array(images)], [mx.nd.array(labels)])
                updates += 1
                history.weights = recipe.weights(options, updates, options.epochs * steps)
                module.forward(batch, is_train=True)
                module.backward(head_gradients(options, share, history.weights[1]))
                optimizer.set_learning_rate(schedule(updates))
                module.update()
                if center_trainer:
                    center_trainer.step(module)
                module.update_metric(history.metrics, batch.label)
                history.step()
                bar.set_postfix(history.short(), refresh=False)
                bar.update()
                if interrupts.received and workers.rank == 0:
                    run.leave(interrupts.received, save())
            run.check_finite(history)
            _, probabilities = predict(module, test_set, share)
            history.end_epoch(float((probabilities.argmax(axis=1) == test_set.labels).mean()),
                              optimizer.learning_rate)
            if workers.rank == 0:
                path = save()
                run.write(options, 'history.csv', history.csv())
                if interrupts.received:
                    run.leave(interrupts.received, path)

    # Results.
    embedding, probabilities = predict(module, test_set, share)
    centers = module.get_params()[1][CENTERS].asnumpy()
    return run.finish(options, history, evaluate(embedding, probabilities, test_set.labels,
                                                 centers))


def predict(module, split, batch_size):
    """The embeddings and the class probabilities of a split, as NumPy arrays."""
    batches = mx.io.NDArrayIter(split.images, split.labels, batch_size, label_name='label')
    probabilities, _, embedding = module.predict(batches)
    return embedding.asnumpy(), probabilities.asnumpy()


if __name__ == '__main__':
    run.script(lambda: train(cli.parse(description=__doc__.splitlines()[0])))
