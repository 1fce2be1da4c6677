"""The beginning and the end of a training run, and of every script."""
import contextlib
import fcntl
import json
import math
import os
import sys

import center_loss_op  # noqa: F401 - before mxnet, for newer NumPys

import checkpoint
import evaluation
import mxnet as mx
import plots
from data import DataError
from history import History, value_of
from options import FIXED, OptionError
from tqdm import tqdm

# The files that `finish` writes, apart from checkpoints.
RESULTS = ['history.csv', 'metrics.json', 'embedding.png', 'curves.png']


class TrainingError(Exception):
    """A training run that cannot go on."""


class Interrupted(Exception):
    """A signal has ended the training: the signal, and the checkpoint that was written."""


def fixed(options):
    """The options that a resumed run must share with the one it continues."""
    return {name: getattr(options, name) for name in FIXED}


@contextlib.contextmanager
def locked(folder, names):
    """Within this context no other run can use an output folder, which is made if necessary.

    The file `.lock` stays in the folder. The system ends the lock with the process, also after a
    kill.

    Parameters
    ----------
    folder : str
    names : list of str
        The files that the run will write at its end. An error comes before the training if there is
        a folder with such a name.
    """
    make_folder(folder)
    for name in names:
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            raise checkpoint.CheckpointError('cannot write %s: it is a folder' % path)
    with open(os.path.join(folder, '.lock'), 'ab') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError('another run is using %s: wait until it has ended, or give another '
                                '--output-dir' % folder) from None
        except OSError as error:
            say('cannot lock %s (%s): do not start another run in it' % (folder, error.strerror))
        yield


def begin(options, workers):
    """The checkpoint to continue from with --resume, if there is one.

    Without one, checkpoints that are already in the output folder are renamed. Worker 0 writes;
    all workers must be able to read the output folder.

    Returns
    -------
    checkpoint.Checkpoint or None
    """
    first = workers.rank == 0
    tell = say if first else (lambda line: None)
    try:
        options.output_dir.encode()
    except UnicodeEncodeError:
        raise OptionError('MXNet cannot write to --output-dir %s: the name is not UTF-8'
                          % options.output_dir) from None
    saved = None
    if options.resume:
        saved = checkpoint.load(options.output_dir, tell, _check_state)
        if saved is None:
            tell('there is no checkpoint in %s yet: starting with epoch 1' % options.output_dir)
    if saved is None:
        if first:
            aside = checkpoint.begin(options.output_dir)
            if aside:
                say('the checkpoints of an earlier run are in %s now' % aside)
            make_folder(checkpoint.home(options.output_dir))
        return None
    for name, value in fixed(options).items():
        before = saved.state['options'].get(name)
        if before != value:
            raise OptionError(
                '%s was written with --%s %s, got %s: give the same to resume, or another '
                '--output-dir' % (saved.path, name.replace('_', '-'), before, value))
    done = len(saved.state['history']['rows'])
    tell('continuing from %s: %s' % (saved.path, 'epoch %d of %d' % (done + 1, options.epochs)
                                     if done < options.epochs else 'all epochs are done'))
    return saved


def _check_state(state):
    """Raise ValueError if a state from a checkpoint is not one that train.py saves."""
    value_of(state, 'options', dict)
    History.check(value_of(state, 'history', dict))


def progress(options, workers, steps, updates, show=True):
    """A bar over all batches of the run, of which `updates` are done."""
    return tqdm(total=options.epochs * steps, initial=updates, desc=options.loss, unit=' batches',
                disable=not show or workers.rank != 0,
                mininterval=0.1 if sys.stderr.isatty() else 5)


def check_finite(history):
    """Raise TrainingError if the loss of the epoch under way is infinite or NaN."""
    loss = history.totals()['loss']
    if not math.isfinite(loss):
        raise TrainingError('the loss is %s in epoch %d: try a smaller --lr or --center-weight'
                            % (loss, history.epoch + 1))


def leave(received, path):
    """End a run because of a signal, after the checkpoint at `path` was written."""
    raise Interrupted(received, path)


def finish(options, workers, history, evaluated):
    """Write metrics.json, history.csv and the pictures; print the metrics as a table.

    Returns
    -------
    evaluation.Evaluation
        `evaluated` with seconds_per_epoch among its metrics.
    """
    metrics = {**evaluated.metrics, 'seconds_per_epoch': history.seconds_per_epoch()}
    title = {'joint': 'softmax + %g · center loss' % options.center_weight,
             'softmax': 'softmax alone', 'center': 'center loss alone'}[options.loss]
    evaluated = evaluated._replace(metrics=metrics)
    if workers.rank == 0:
        contents = [history.csv(), json.dumps(metrics, indent=2) + '\n',
                    plots.png(plots.embedding_figure({title: evaluated})),
                    plots.png(plots.curves_figure(history.rows))]
        for name, content in zip(RESULTS, contents):
            write(options, name, content)
        print(evaluation.table({title: metrics}))
    return evaluated


def write(options, name, content):
    """Write a file of the output folder."""
    checkpoint.write_file(os.path.join(options.output_dir, name), content)


def make_folder(path):
    """Make a folder for results, and check before a long training that files can be written."""
    probe = os.path.join(path, '.unfinished-probe')
    try:
        os.makedirs(path, exist_ok=True)
        with open(probe, 'wb'):
            pass
        os.remove(probe)
    except FileExistsError:
        raise checkpoint.CheckpointError('cannot write to %s: it is not a folder' % path) from None
    except OSError as error:
        raise checkpoint.CheckpointError('cannot write to %s: %s' % (path, error.strerror)
                                         ) from None


def script(main, to_continue='continue with --resume'):
    """Run `main`; errors that a user can correct end it with one line, not with a traceback.

    `to_continue` tells the user what to do after an interruption.
    """
    # A terminal that is not UTF-8 may lack letters such as λ: their codes are printed there.
    sys.stdout.reconfigure(errors='backslashreplace')
    try:
        main()
    except (checkpoint.CheckpointError, DataError, OptionError, TrainingError) as error:
        sys.exit('%s: error: %s' % (os.path.basename(sys.argv[0]), error))
    except Interrupted as interrupt:
        received, path = interrupt.args
        say('%s: saved %s, %s' % (received.name, path, to_continue))
        sys.exit(128 + received)  # the exit code of a process that the signal has ended
    except mx.MXNetError as error:
        if 'Horovod has been shut down' not in str(error):
            raise
        sys.exit('%s: error: another worker has ended, and this one cannot go on without it'
                 % os.path.basename(sys.argv[0]))
    except KeyboardInterrupt:
        sys.exit(130)


def say(line):
    """Show a line to the user: on stderr, because results go to stdout."""
    print(line, file=sys.stderr, flush=True)
