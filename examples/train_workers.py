"""Softmax with center loss in several processes, which train one network together, with Gluon.

    python examples/launch_local.py -n 2 python examples/train_workers.py

Each worker trains on a part of the images. MXNet's servers add up the gradients, and CenterTrainer
moves the centers of all workers by the samples of all workers, so that all of them have the same
network and the same centers after each step: those of one process that sees the whole batches.
"""
import argparse
import os
import sys

import center_loss_op  # before mxnet, for newer NumPys
from center_loss_op.gluon import CenterLoss, CenterTrainer

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon
from mxnet.gluon import nn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

sys.stdout.reconfigure(errors='replace')    # for terminals that have no λ
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                 formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument('--center-weight', type=float, default=0.03, help='λ')
parser.add_argument('--epochs', type=int, default=20, help='passes over the training set')
parser.add_argument('--batch-size', type=int, default=64, help='images per step of all workers')
parser.add_argument('--lr', type=float, default=0.01, help='the learning rate, for any number of '
                    'workers')
options = parser.parse_args()
if 'DMLC_ROLE' not in os.environ:
    sys.exit('start it with: python examples/launch_local.py -n 2 python ' + sys.argv[0])
kv = mx.kv.create('dist_sync')
mx.random.seed(0)       # the same initial weights in all workers
np.random.seed(0)

# Data: every worker has each num_workers-th image. All workers take equally many steps, because
# each step waits for all of them.
images, labels = load_digits(return_X_y=True)
images = (images / 16).astype('float32').reshape(-1, 1, 8, 8)
x_train, x_test, y_train, y_test = train_test_split(images, labels.astype('float32'),
                                                    test_size=0.2, random_state=0, stratify=labels)
share = len(x_train) // kv.num_workers
mine = slice(kv.rank, share * kv.num_workers, kv.num_workers)
batches = gluon.data.DataLoader(gluon.data.ArrayDataset(x_train[mine], y_train[mine]),
                                options.batch_size // kv.num_workers, shuffle=True,
                                last_batch='discard')

features = nn.HybridSequential()
for channels in 32, 64:
    features.add(nn.Conv2D(channels, 3, padding=1), nn.MaxPool2D(), nn.Activation('relu'))
features.add(nn.Dense(64))
classifier = nn.Dense(10)
softmax_loss = gluon.loss.SoftmaxCrossEntropyLoss()
center_loss = CenterLoss(classes=10, weight=options.center_weight)
for block in features, classifier, center_loss:
    block.initialize(mx.init.Xavier())
    block.hybridize()

# The workers run the optimizer, and the servers only add: the centers need the sum as well.
params = features.collect_params()
params.update(classifier.collect_params())
trainer = gluon.Trainer(params, 'sgd', {'learning_rate': options.lr, 'momentum': 0.9}, kvstore=kv,
                        update_on_kvstore=False)
center_trainer = CenterTrainer(center_loss, kv)

for _ in tqdm(range(options.epochs), unit='epoch', disable=kv.rank > 0):
    total = 0
    for x, y in batches:
        with autograd.record():
            embedding = features(x)
            loss = softmax_loss(classifier(embedding), y) + center_loss(embedding, y)
        loss.backward()
        # The gradients are sums over all workers, so divide by the batch of all workers. Then the
        # learning rate needs no change with their number.
        trainer.step(len(y) * kv.num_workers)
        center_trainer.step()
        total += loss.mean().asscalar()

embedding = features(mx.nd.array(x_test))
scores = classifier(embedding)
nearest, _ = center_loss_op.nearest_center(embedding, center_loss.centers.data())
print(f'rank {kv.rank} of {kv.num_workers}: {len(batches)} steps per epoch, '
      f'loss {total / len(batches):.3f}, '
      f'accuracy by scores {(scores.argmax(axis=1).asnumpy() == y_test).mean():.3f}, '
      f'by nearest center {(nearest.asnumpy() == y_test).mean():.3f}')
