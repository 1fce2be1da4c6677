"""Train a recognizer on pictures of your own: people, products, plants.

    python examples/recognizer/train.py DATA --output-dir OUT

DATA is a folder with one sub-folder of pictures per class, a .rec file as ``python -m
mxnet.tools.im2rec`` writes it (insightface's train.rec also), or an .npz file with `images`,
bytes (n, height, width), and `labels`. Some classes are held out of the training: pairs of their
pictures show how well the network tells apart classes that it has never seen. With fewer than ten
classes, pictures are held out instead. The last epoch of each loss is measured; `recipe.choose`
takes one of them.

OUT gets, for ``recognize.py`` and for other programs:

- ``recognizer.json`` and ``embedding.onnx``: the network for ONNX Runtime, and how to use it;
- ``embedding-symbol.json`` and ``embedding-0000.params``: the same for MXNet, without this package.
  Input `data`: (N, channels, height, width), RGB or grey, 0 to 255. Output: the embedding, (N, d);
- ``classes.npz``: `names` of the classes trained on, and their `centers`, (C, d);
- ``metrics.json``, ``history.csv``, ``training.log``, ``report.html``, and ``checkpoints``.
"""
import json
import os
import shutil
import sys
import tempfile
import time
import warnings

PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
# MXNet leaves every second processor idle unless it is told how many threads to use.
os.environ.setdefault('OMP_NUM_THREADS', str(PROCESSORS))
# A thread that waits leaves its processor to others: several times as fast on a busy machine.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')
sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))    # export_onnx.py

from center_loss_op.gluon import CenterLoss, CenterTrainer, DecorrelationLoss  # before mxnet

import checkpoint
import data
import metrics
import mxnet as mx
import networks
import numpy as np
import recipe
import results
from data import DataError, printable
from mxnet import autograd, gluon
from options import parse
from tqdm import tqdm

MOMENTUM = 0.9
# What a resumed training shares with the one that was begun.
FIXED = ('network', 'layer', 'freeze', 'mean', 'std', 'embedding_size', 'drawings', 'held_out',
         'center_weight', 'epochs', 'batch_size', 'lr', 'wd', 'seed')


# -- the training


def train(images, labels, network=networks.SMALL, center_weight=0., decorrelation=0., *,
          epochs=40, batch_size=64, lr=0.1, wd=0.003, drawings=False, seed=0, contexts=None,
          store='device', rows=None, folder=None, after_epoch=None, say=print, title=None):
    """Train an embedding of pictures by softmax, with center loss if λ is not 0.

    Parameters
    ----------
    images : numpy.ndarray (n, height, width, channels), uint8
    labels : numpy.ndarray (n,)
        Whole numbers from 0 on.
    network : networks.Spec
    center_weight, decorrelation : float
        λ, which rises from 0 to its full height, and the weight of the decorrelation loss.
    epochs, batch_size, lr, wd, drawings, seed, contexts, store
        As the options of this program; a store can also be a KVStore.
    rows : numpy.ndarray, optional
        The rows of `images` to train on, in an order that is part of the training (default: all).
    folder : str, optional
        Where a state is written after each epoch; if there is one already, it is continued.
    after_epoch : callable, optional
        Called with the row of the history, to add to it, and the `Trained` network.
    """
    contexts = contexts or [mx.cpu()]
    rank, workers = (0, 1) if isinstance(store, str) else (store.rank, store.num_workers)
    rows = np.arange(len(images)) if rows is None else rows
    devices = len(contexts) * workers
    batch_size = min(batch_size, len(rows)) // devices * devices
    if batch_size < 2 * devices:
        raise DataError(f'--batch-size must be {2 * devices} or more: two pictures per device, and '
                        f'there are {len(rows)} to train on')
    steps = max(25, len(rows) // batch_size)
    updates = epochs * steps

    mx.random.seed(seed)
    shape, classes = (images.shape[3], *images.shape[1:3]), int(labels[rows].max()) + 1
    embed, classifier, _ = networks.build(network, shape, classes, contexts)
    softmax_loss = gluon.loss.SoftmaxCrossEntropyLoss()
    center_loss = CenterLoss(classes, classifier.weight.shape[1])
    center_loss.initialize(ctx=contexts)
    decorrelation_loss = DecorrelationLoss(decorrelation)
    for block in embed, classifier, softmax_loss, center_loss, decorrelation_loss:
        block.hybridize()
    parameters = [*embed.collect_params().values(), *classifier.collect_params().values()]
    # A list, because Trainer sorts a dictionary by names, and these depend on earlier networks.
    trainer = gluon.Trainer(parameters, 'sgd', {'momentum': MOMENTUM, 'wd': wd}, kvstore=store,
                            update_on_kvstore=False)
    # Several devices or workers: all their copies of the centers move as one.
    center_trainer = CenterTrainer(center_loss, store) if devices > 1 else None
    schedule = recipe.learning_rate(lr, updates)
    trained = Trained(embed, classifier, center_loss, trainer, contexts[0])
    if folder and trained.restore(folder, say):
        say(f'{title or "training"}: continuing after epoch {len(trained.history)}')

    with tqdm(total=updates, initial=len(trained.history) * steps, unit=' batches', desc=title,
              disable=rank != 0 or not sys.stderr.isatty() or None) as bar:
        for epoch in range(len(trained.history) + 1, epochs + 1):
            random = np.random.RandomState((seed, epoch, rank))
            mx.random.seed(random.randint(2 ** 31 - 1))
            order = recipe.batches(len(rows), batch_size, np.random.RandomState((seed, epoch)))
            sums, waiting, start = np.zeros(4), 0., time.perf_counter()
            for update, batch in enumerate(order, (epoch - 1) * steps + 1):
                asked = time.perf_counter()
                mine = np.sort(rows[batch[rank::workers]])      # a file is read in its own order
                pixels, numbers = (mx.nd.array(part[mine], dtype=part.dtype)
                                   for part in (images, labels))
                waiting += time.perf_counter() - asked
                # Classes have to lie apart before they are gathered.
                rising = center_weight * min(1, update / (recipe.RISE * updates))
                losses, shown = [], []
                for x, y in zip(*(gluon.utils.split_and_load(part, contexts)
                                  for part in (pixels, numbers))):
                    x = networks.vary(x.transpose((0, 3, 1, 2)).astype('float32'), random, drawings)
                    with autograd.record():
                        embedding = embed(x)
                        scores = classifier(embedding)
                        softmax, center = softmax_loss(scores, y), center_loss(embedding, y)
                        apart = decorrelation_loss(embedding)
                        losses.append(softmax + rising * center + apart)
                    right = scores.argmax(axis=1) == y.astype('float32')
                    shown.append([part.sum() for part in (softmax, center, apart, right)])
                autograd.backward(losses)
                trainer.set_learning_rate(schedule(update))
                trainer.step(batch_size)
                if center_trainer:
                    center_trainer.step()
                sums += np.array([mx.nd.concat(*parts, dim=0).asnumpy() for parts in shown]).sum(0)
                bar.update()
            seconds = time.perf_counter() - start
            if not np.isfinite(sums).all():
                raise DataError(f'the loss is no number any more in epoch {epoch}: try a smaller '
                                '--lr')
            row = {'epoch': epoch, 'center_weight': rising, 'learning_rate': trainer.learning_rate,
                   **dict(zip(('softmax_loss', 'center_loss', 'decorrelation_loss', 'accuracy'),
                              sums / (order.size / workers))),
                   'images_per_second': order.size / seconds,
                   'share_waiting_for_images': waiting / seconds}
            trained.history.append(row)
            if after_epoch and rank == 0:
                after_epoch(row, trained)
            if folder and rank == 0:
                trained.save(folder)
    return trained


class Trained:
    """What `train` returns: the blocks `embed`, `classifier` and `center_loss`, and `history`, a
    dict per epoch."""

    def __init__(self, embed, classifier, center_loss, trainer, context):
        self.embed, self.classifier, self.center_loss = embed, classifier, center_loss
        self.history, self._trainer, self._context = [], trainer, context
        self._parameters = [*embed.collect_params().values(), *classifier.collect_params().values(),
                            center_loss.centers]

    def embeddings(self, images, rows=None):
        """The embeddings of images, (n, height, width, channels) uint8, or of some rows: (n, d)."""
        rows = np.arange(len(images)) if rows is None else rows
        return networks.embed_all(self.embed, images, rows, self._context)

    def centers(self):
        """The centers of the classes, (C, d)."""
        return self.center_loss.centers.data(self._context).asnumpy()

    def save(self, folder):
        """Write parameters and optimizer as arrays, and the history."""
        arrays = {f'parameter-{number}': parameter.data(self._context).asnumpy()
                  for number, parameter in enumerate(self._parameters)}
        arrays.update((f'momentum-{number}', state.asnumpy()) for number, state
                      in self._trainer._updaters[0].states.items() if state is not None)
        checkpoint.save_state(folder, len(self.history), arrays, {'history': self.history})

    def restore(self, folder, say):
        """Continue from the last state in a folder; whether there is one."""
        found = checkpoint.load_state(folder, say)
        if not found:
            return False
        _, arrays, state = found
        try:
            for number, parameter in enumerate(self._parameters):
                parameter.set_data(mx.nd.array(arrays.pop(f'parameter-{number}')))
            for updater in self._trainer._updaters:
                for name, array in arrays.items():
                    number = int(name[len('momentum-'):])
                    updater.states[number] = mx.nd.array(array)
                    updater.states_synced[number] = False   # it moves to the device when used
            self.history = list(state['history'])
        except (KeyError, TypeError, ValueError, AssertionError) as error:
            raise DataError(f'{folder} is of another training ({networks.first_line(error)}): take '
                            'another --output-dir') from None
        return True


# -- the program


def main(arguments=None):
    """Train, measure, choose, export, and say how good it is; returns what is in metrics.json."""
    sys.stdout.reconfigure(errors='replace')    # for terminals that have no λ
    options = parse(arguments, __doc__)
    store = networks.open_store(options.kv_store)
    if getattr(store, 'rank', 0):       # only the first worker writes
        return run(options, store, results.Log(None))
    with checkpoint.lock(options.output_dir):
        return run(options, store, results.Log(options.output_dir, options.resume))


def run(options, store, log):
    """`main` of one worker."""
    out, spec, contexts = options.output_dir, options.spec, networks.devices(options.ctx)
    progress = recipe.Progress(out, options.resume, log.first)
    pictures = data.load(options.data, lambda *found: networks.input_shape(spec, *found), out,
                         quiet=not log.first)
    for line in data.left_out_lines(pictures.left_out):
        log(line)
    images, shape = pictures.images, (pictures.images.shape[3], *pictures.images.shape[1:3])
    trained_before = networks.trained_classes(spec)
    fixed = {**{name: value for name, value in vars(options).items() if name in FIXED},
             'shape': shape, 'params': networks.digest(spec)}
    held_out = progress.held_out(pictures, fixed, lambda: recipe.hold_out(
        pictures, options.held_out, options.seed, trained_before), log)
    log(held_out.described(pictures))
    names, labels = np.unique(np.array(pictures.names)[pictures.labels[held_out.train]],
                              return_inverse=True)
    of_all = np.zeros(len(images), 'int64')
    of_all[held_out.train] = labels
    of_test, measured, embeddings, trained = pictures.labels[held_out.test], {}, {}, {}

    def measure(row, found):
        embeddings[row] = found
        measured[row] = metrics.measure(found, of_test, options.distance, seed=options.seed)

    if spec.params and len(of_test) and log.first:
        before = networks.build(spec, shape, len(names), contexts)[2]
        measure('before', networks.embed_all(before, images, held_out.test, contexts[0]))
    for row in recipe.rows(options.center_weight, len(names),
                           not len(of_test) or store != 'device', log):
        def after_epoch(line, network, row=row):
            if len(of_test):
                found = metrics.held_out(network.embeddings(images, held_out.test), of_test,
                                         options.distance, draws=0)[0]
                line.update((name, found[name].value) for name in ('eer', 'rank1'))
            log.epoch(row.name, network.history, options.epochs)

        network = trained[row] = train(
            images, of_all, spec._replace(plain=row.plain), *row[:2], epochs=options.epochs,
            batch_size=options.batch_size, lr=options.lr, wd=options.wd, drawings=options.drawings,
            seed=options.seed, contexts=contexts, store=store, rows=held_out.train,
            after_epoch=after_epoch, folder=progress.folder(row), say=log, title=row.name)
        log.history(row.name, network.history, last=True)
        if len(of_test) and log.first:
            measure(row, network.embeddings(images, held_out.test))
    if not log.first:
        return None

    chosen = recipe.choose({row: one[0] for row, one in measured.items()}, list(trained),
                           len(names))
    result = results.summary(trained, chosen, measured, held_out, pictures, options.distance)
    files = exported(trained[chosen].embed, shape, out, log)
    files['classes.npz'] = checkpoint.npz(names=names, centers=trained[chosen].centers())
    last = trained[chosen].history[-1]
    checkpoint.publish(out, files, {
        'network': spec.network, 'size': list(shape[1:]), 'channels': shape[0], 'mean': [0],
        'std': [1], 'features': trained[chosen].classifier.weight.shape[1],
        'distance': options.distance, 'thresholds': result['thresholds'],
        'measured_on': held_out.kind, 'classes': sorted({*names.tolist(), *trained_before}),
        'row': {**chosen._asdict(), 'center_weight': last['center_weight'],
                'epoch': last['epoch']}})
    checkpoint.write(os.path.join(out, 'metrics.json'), json.dumps(result, indent=2) + '\n')
    checkpoint.write(os.path.join(out, 'report.html'), results.page(
        result, measured, embeddings.get(chosen), pictures, held_out.test, options.pictures))
    progress.finish()
    print(*results.lines(result), f'wrote {printable(out)}', sep='\n')
    return result


def exported(embed, shape, out, log):
    """The files of a network for MXNet and ONNX Runtime: {name: bytes}."""
    folder = checkpoint.make_folder(out, '.export.unfinished')
    before, tempfile.tempdir = tempfile.tempdir, folder     # nothing is written outside OUT
    try:
        embed.export(os.path.join(folder, 'embedding'))
        names = ['embedding-symbol.json', 'embedding-0000.params']
        paths = [os.path.join(folder, name) for name in names]
        try:
            from export_onnx import export

            export(mx.sym.load(paths[0]), mx.nd.load(paths[1]), [shape],
                   os.path.join(folder, 'embedding.onnx'))
            names.append('embedding.onnx')
        except ImportError as error:
            log(f"no embedding.onnx ({error}): pip install 'center_loss_op[onnx]', and --resume")
        except Exception as error:
            # MXNet's exporter does not know every operator, and fails in many ways.
            log(f'no embedding.onnx: {networks.first_line(error)}')
        return {name: checkpoint.read_file(os.path.join(folder, name)) for name in names}
    finally:
        tempfile.tempdir = before
        shutil.rmtree(folder)


if __name__ == '__main__':
    warnings.filterwarnings('ignore')       # of odd metadata, and of what MXNet cannot infer
    try:
        main()
    except (DataError, OSError) as error:
        sys.exit(f'train.py: error: {printable(error)}')
    except KeyboardInterrupt:
        print('interrupted: the epochs in training.log are kept, --resume continues after the last',
              file=sys.stderr)
        sys.exit(130)
