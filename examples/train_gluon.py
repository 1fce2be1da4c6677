"""Softmax alone, then softmax with center loss, on handwritten digits, with Gluon.

    python examples/train_gluon.py

It trains the same network twice, prints how well both classify, and draws the features of both into
distributions.png.
"""
import argparse
import sys

import center_loss_op  # before mxnet, for newer NumPys
from center_loss_op.gluon import CenterLoss

import matplotlib
import mxnet as mx
import numpy as np
from matplotlib.figure import Figure
from mxnet import autograd, gluon
from mxnet.gluon import nn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm


def main(arguments=None):
    sys.stdout.reconfigure(errors='replace')    # for terminals that have no λ
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--center-weight', type=float, default=0.1,
                        help='λ at the end of the training')
    parser.add_argument('--alpha', type=float, default=0.5,
                        help='α, the rate at which centers move')
    parser.add_argument('--epochs', type=int, default=30, help='passes over the training set')
    parser.add_argument('--batch-size', type=int, default=64, help='images per step')
    parser.add_argument('--lr', type=float, default=0.01, help='the highest learning rate')
    parser.add_argument('--seed', type=int, default=0,
                        help='of initial weights and order of images')
    parser.add_argument('--output', default='distributions.png', help='the picture')
    options = parser.parse_args(arguments)

    # 1,797 images of 8 x 8 pixels with labels from 0 to 9; a fifth of them is for the test.
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype('float32').reshape(-1, 1, 8, 8)   # (N, channels, height, width)
    data = train_test_split(images, labels.astype('float32'), test_size=0.2, random_state=0,
                            stratify=labels)
    # λ = 0 is softmax alone: the centers follow the features without pulling at them.
    runs = {title: train(*data, weight, title, options) for title, weight in (
        ('softmax alone', 0), ('softmax + center loss', options.center_weight))}
    for title, (_, _, by_scores, by_center) in runs.items():
        print(f'{title:21}  accuracy by scores {by_scores:.3f}, by nearest center {by_center:.3f}')
    draw(runs, y_test=data[-1]).savefig(options.output, dpi=100)
    print('wrote', options.output)


class Network(nn.HybridBlock):
    """Images → embedding, (N, 2), and from it the scores of ten classes, (N, 10).

    Two features per image can be drawn as they are. For anything else use more, 64 or 128, with
    nn.BatchNorm(scale=False, center=False) behind them, and a projection such as PCA to draw them.
    """

    def __init__(self):
        super().__init__()
        self.features = nn.HybridSequential()
        for channels in 16, 32:
            self.features.add(nn.Conv2D(channels, 3, padding=1), nn.BatchNorm(), nn.PReLU(),
                              nn.Conv2D(channels, 3, padding=1), nn.BatchNorm(), nn.PReLU(),
                              nn.MaxPool2D())
        self.features.add(nn.Dense(256), nn.PReLU())
        self.embedding = nn.Dense(2)
        self.scores = nn.Dense(10, use_bias=False)
        # Center loss keeps the features small, so these weights grow ten times as fast as others.
        self.scores.weight.lr_mult = 10

    def hybrid_forward(self, F, x):
        embedding = self.embedding(self.features(x))
        return embedding, self.scores(embedding)


def train(x_train, x_test, y_train, y_test, center_weight, title, options):
    """Train a new network: its features of the test images, the centers and two accuracies."""
    mx.random.seed(options.seed)
    np.random.seed(options.seed)    # DataLoader shuffles by it
    # A border of one pixel, so that each batch can be moved by up to one pixel in each direction:
    # that makes more of 1,437 images.
    x_train = np.pad(x_train, ((0, 0), (0, 0), (1, 1), (1, 1)))
    batches = gluon.data.DataLoader(gluon.data.ArrayDataset(x_train, y_train), options.batch_size,
                                    shuffle=True, last_batch='discard')
    net = Network()
    softmax_loss = gluon.loss.SoftmaxCrossEntropyLoss()
    center_loss = CenterLoss(classes=10, alpha=options.alpha)   # its weight, λ, rises: see below
    net.initialize(mx.init.Xavier())
    center_loss.initialize()        # centers begin at 0
    for block in net, softmax_loss, center_loss:
        block.hybridize()
    updates = options.epochs * len(batches)
    schedule = mx.lr_scheduler.CosineScheduler(updates, options.lr, warmup_steps=updates // 20)
    # The rate twice: otherwise MXNet warns that Adam's default replaces that of the schedule.
    trainer = gluon.Trainer(net.collect_params(), 'adam', {
        'learning_rate': options.lr, 'lr_scheduler': schedule})

    progress = tqdm(range(1, options.epochs + 1), desc=title, unit='epoch')
    for epoch in progress:
        # λ rises: the classes have to lie apart before each of them is gathered.
        center_loss.weight = center_weight * epoch / options.epochs
        total = 0
        for x, y in batches:
            top, left = np.random.randint(3, size=2)    # move the batch
            x = x[:, :, top:top + 8, left:left + 8]
            with autograd.record():
                embedding, scores = net(x)
                loss = softmax_loss(scores, y) + center_loss(embedding, y)
            loss.backward()         # moves the centers, too; the trainer does not know them
            trainer.step(len(y))
            total += loss.mean().asscalar()
        progress.set_postfix(loss=f'{total / len(batches):.3f}')

    # To keep the network, write net.save_parameters('net.params') and
    # center_loss.save_parameters('centers.params') here. To load them, make Network() and
    # CenterLoss(classes=10) and call load_parameters instead of initialize.

    # Two ways to classify: by the scores, and by the center that lies nearest to the features.
    embedding, scores = net(mx.nd.array(x_test))
    centers = center_loss.centers.data()
    nearest, _ = center_loss_op.nearest_center(embedding, centers)      # and the distance
    return (embedding.asnumpy(), centers.asnumpy(),
            (scores.argmax(axis=1).asnumpy() == y_test).mean(),
            (nearest.asnumpy() == y_test).mean())


def draw(runs, y_test):
    """The features of both runs on one scale, then the second's magnified; circles are centers."""
    limits = [1.1 * abs(embedding).max() for embedding, *_ in runs.values()]
    alone, joint = runs
    panels = [(alone, alone, max(limits)), (joint, joint, max(limits)),
              (joint, f'{joint}, magnified', limits[1])]
    figure = Figure(figsize=(15, 5), layout='constrained')
    for axes, (run, title, limit) in zip(figure.subplots(1, 3), panels):
        embedding, centers, *_ = runs[run]
        axes.set(title=title, aspect='equal', xlim=(-limit, limit), ylim=(-limit, limit))
        for digit, color in enumerate(matplotlib.colormaps['tab10'].colors):
            axes.scatter(*embedding[y_test == digit].T, color=color, s=6)
            axes.plot(*centers[digit], 'o', markersize=12, color='white', markeredgecolor=color)
            axes.text(*centers[digit], digit, ha='center', va='center')
    return figure


if __name__ == '__main__':
    main()
