"""Softmax with center loss on handwritten digits, as a symbol graph with `Module.fit`.

    python examples/train_symbol.py
    python examples/train_symbol.py --resume --epochs 80    # goes on from the last checkpoint

It writes into --output-dir

- digits-symbol.json, and digits-0040.params and .states, …: the checkpoints of the last three
  epochs. The centers are among the auxiliary states, and the optimizer's moments in the .states;
- embedding-symbol.json and embedding-0000.params: images to embedding, for serving. MXNet loads
  them without center_loss_op (alone it needs NumPy 1.23 or older).
"""
import argparse
import logging
import sys
from pathlib import Path

from center_loss_op import nearest_center  # before mxnet, for newer NumPys
from center_loss_op.symbol import center_loss

import mxnet as mx
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm


def main(arguments=None):
    sys.stdout.reconfigure(errors='replace')    # for terminals that have no λ
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--center-weight', type=float, default=0.1, help='λ')
    parser.add_argument('--alpha', type=float, default=0.5,
                        help='α, the rate at which centers move')
    parser.add_argument('--epochs', type=int, default=40, help='passes over the training set')
    parser.add_argument('--batch-size', type=int, default=64, help='images per step')
    parser.add_argument('--lr', type=float, default=0.003, help='the learning rate')
    parser.add_argument('--output-dir', default='out-digits', help='a folder of its own')
    parser.add_argument('--resume', action='store_true', help='go on from the last checkpoint')
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format='%(message)s')   # else Module logs nothing
    mx.random.seed(0)
    np.random.seed(0)       # NDArrayIter shuffles by it

    # 1,797 images of 8 x 8 pixels with labels from 0 to 9; a fifth of them is for the test.
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype('float32').reshape(-1, 1, 8, 8)
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels.astype('float32'), test_size=0.2, random_state=0, stratify=labels)
    train = mx.io.NDArrayIter(x_train, y_train, options.batch_size, shuffle=True,
                              last_batch_handle='discard')
    test = mx.io.NDArrayIter(x_test, y_test, 60)   # divides 360: else some images count twice

    folder = Path(options.output_dir)
    prefix = str(folder / 'digits')
    begin = max((epoch_of(file) for file in folder.glob('digits-*.params')), default=0)
    if options.resume and not begin:
        parser.error(f'there is no checkpoint {prefix}-….params to go on from')
    if begin and not options.resume or begin >= options.epochs:
        parser.error(f'there are checkpoints {prefix}-… up to epoch {begin}: give --resume and '
                     'more --epochs, or another --output-dir')
    folder.mkdir(parents=True, exist_ok=True)
    if options.resume:
        # With the optimizer's states: without Adam's moments the loss jumps up.
        module = mx.mod.Module.load(prefix, begin, load_optimizer_states=True)
        logging.info('going on after epoch %d', begin)
    else:
        module = mx.mod.Module(graph(options.center_weight, options.alpha))

    # The graph has two outputs, so each metric names the one that it reads.
    metric = mx.metric.CompositeEvalMetric([
        mx.metric.Accuracy(output_names=['softmax_output'], label_names=['softmax_label']),
        mx.metric.Loss(name='center_loss', output_names=['center_loss_output'], label_names=[])])
    save = mx.callback.module_checkpoint(module, prefix, save_optimizer_states=True)

    def keep_three(epoch, *state):
        save(epoch, *state)
        for file in folder.glob('digits-*.*'):
            if file.suffix in ('.params', '.states') and epoch_of(file) <= epoch + 1 - 3:
                file.unlink()

    steps = (options.epochs - begin) * (len(x_train) // options.batch_size)
    with tqdm(total=steps, unit='step') as progress, logging_redirect_tqdm():
        module.fit(train, test, eval_metric=metric, optimizer='adam',
                   optimizer_params={'learning_rate': options.lr}, initializer=mx.init.Xavier(),
                   begin_epoch=begin, num_epoch=options.epochs,
                   batch_end_callback=lambda param: progress.update(),
                   epoch_end_callback=keep_three)

    # Serving needs the graph up to the embedding, and the centers for the nearest of them.
    arg_params, aux_params = module.get_params()
    serving = mx.mod.Module(module.symbol.get_internals()['embedding_output'], label_names=None)
    serving.bind(test.provide_data, for_training=False)
    serving.set_params(arg_params, aux_params, allow_extra=True)
    serving.save_checkpoint(str(folder / 'embedding'), 0)
    centers = aux_params['center_loss_center_bias']     # named after the node `center_loss`
    nearest, _ = nearest_center(serving.predict(test), centers)
    print(f'accuracy by nearest center {(nearest.asnumpy() == y_test).mean():.3f}')


def graph(center_weight, alpha):
    """Images and labels to class probabilities, and to one center loss per sample."""
    x, label = mx.sym.var('data'), mx.sym.var('softmax_label')
    for number, channels in enumerate((32, 64), 1):
        x = mx.sym.Convolution(x, num_filter=channels, kernel=(3, 3), pad=(1, 1),
                               name=f'conv{number}')
        x = mx.sym.BatchNorm(x, fix_gamma=False, name=f'norm{number}')
        x = mx.sym.relu(mx.sym.Pooling(x, kernel=(2, 2), stride=(2, 2), pool_type='max'))
    x = mx.sym.relu(mx.sym.FullyConnected(x, num_hidden=256, name='hidden'))
    embedding = mx.sym.FullyConnected(x, num_hidden=2, name='embedding')
    scores = mx.sym.FullyConnected(embedding, mx.sym.var('scores_weight', lr_mult=10),
                                   num_hidden=10, no_bias=True, name='scores')
    softmax = mx.sym.SoftmaxOutput(scores, label, name='softmax')
    # `scale` weighs the gradient only: the metric shows the loss without λ.
    center = center_loss(embedding, label, num_class=10, alpha=alpha, scale=center_weight,
                         name='center_loss')
    return mx.sym.Group([softmax, center])


def epoch_of(file):
    """The number in the name of a checkpoint: 40 for digits-0040.params."""
    return int(file.stem.split('-')[-1])


if __name__ == '__main__':
    main()
