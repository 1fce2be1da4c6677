"""The beginning and the end of a training run, which the examples have in common."""
import json
import math
import os
import sys

import center_loss_op  # before mxnet, for newer NumPys; pylint: disable=unused-import
import mxnet as mx
from tqdm import tqdm

import checkpoint
import evaluation
import plots
from data import DataError
from options import FIXED, OptionError


class TrainingError(Exception):
    """A training run that cannot go on."""


class Interrupted(Exception):
    """A training run that a signal has ended: the signal, and the checkpoint it left."""


def fixed(options):
    """The options that a resumed run must share with the one it continues."""
    return {name: getattr(options, name) for name in FIXED}


def begin(options):
    """The checkpoint to continue from with --resume, if there is one; else an empty folder.

    Of several workers the first one writes, and all must be able to read what it wrote.

    Returns
    -------
    checkpoint.Checkpoint or None
    """
    first = options.workers.rank == 0
    tell = say if first else (lambda line: None)
    saved = checkpoint.load(options.output_dir, tell) if options.resume else None
    if first:
        make_folder(options.output_dir)
    if saved is None:
        aside = checkpoint.begin(options.output_dir) if first else None
        if aside:
            say('the checkpoints of an earlier run are in %s now' % aside)
        return None
    for name, value in fixed(options).items():
        before = saved.state['options'].get(name)
        if before != value:
            raise OptionError(
                '%s was written with --%s %s, got %s: give the same to resume, or another '
                '--output-dir' % (saved.path, name.replace('_', '-'), before, value))
    tell('continuing from %s' % saved.path)
    return saved


def progress(options, steps, updates, show=True):
    """A bar over all batches of the run, of which `updates` are done."""
    return tqdm(total=options.epochs * steps, initial=updates, desc=options.loss, unit=' batches',
                disable=not show or options.workers.rank != 0,
                mininterval=0.1 if sys.stderr.isatty() else 5)


def check_finite(history):
    """Raise TrainingError when the loss of the epoch under way is no number any more."""
    loss = history.totals()['loss']
    if not math.isfinite(loss):
        raise TrainingError('the loss is %s in epoch %d: try a smaller --lr or --center-weight'
                            % (loss, history.epoch + 1))


def leave(received, path):
    """End a run that a signal asks to end, now that the checkpoint at `path` is written."""
    raise Interrupted(received, path)


def finish(options, history, evaluated):
    """Write metrics.json, history.csv and the pictures; show the metrics as a table.

    Returns
    -------
    evaluation.Evaluation
        `evaluated` with seconds_per_epoch among its metrics.
    """
    metrics = {**evaluated.metrics, 'seconds_per_epoch': history.seconds_per_epoch()}
    title = {'joint': 'softmax + %g · center loss' % options.center_weight,
             'softmax': 'softmax alone', 'center': 'center loss alone'}[options.loss]
    evaluated = evaluated._replace(metrics=metrics)
    if options.workers.rank == 0:
        write(options, 'history.csv', history.csv())
        write(options, 'metrics.json', json.dumps(metrics, indent=2) + '\n')
        write(options, 'embedding.png', plots.png(plots.embedding_figure({title: evaluated})))
        write(options, 'curves.png', plots.png(plots.curves_figure(history.rows)))
        print(evaluation.table({title: metrics}))
    return evaluated


def write(options, name, content):
    """Write a file of the output folder."""
    checkpoint.write_file(os.path.join(options.output_dir, name), content)


def make_folder(path):
    """Make a folder for results, and see now, before a long training, that it can be written."""
    probe = os.path.join(path, '.unfinished-probe')
    try:
        os.makedirs(path, exist_ok=True)
        with open(probe, 'wb'):
            pass
        os.remove(probe)
    except OSError as error:
        raise checkpoint.CheckpointError('cannot write to %s: %s' % (path, error.strerror)
                                         ) from None


def script(main, to_continue='continue with --resume'):
    """Run `main`; what a user can put right ends it with one line, not with a traceback.

    `to_continue` is what a user is told to do after an interruption.
    """
    try:
        main()
    except (checkpoint.CheckpointError, DataError, OptionError, TrainingError) as error:
        sys.exit('%s: error: %s' % (os.path.basename(sys.argv[0]), error))
    except Interrupted as interrupt:
        received, path = interrupt.args
        say('%s: saved %s, %s' % (received.name, path, to_continue))
        sys.exit(128 + received)  # as a process that the signal has ended
    except mx.MXNetError as error:
        if 'Horovod has been shut down' not in str(error):
            raise
        sys.exit('%s: error: another worker has ended, and this one cannot go on without it'
                 % os.path.basename(sys.argv[0]))
    except KeyboardInterrupt:
        sys.exit(130)


def say(line):
    """A line for the user, apart from the results."""
    print(line, file=sys.stderr, flush=True)
