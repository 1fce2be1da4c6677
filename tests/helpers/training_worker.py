"""Run experiments/train.py as one worker, keep more of its results, and stop it at a given batch.

    python training_worker.py [--keep FOLDER] [--stop N --signal NAME ...] <options of train.py>

With --keep, the features of the test set, which depend on all weights, and the centers go to
`FOLDER/<rank>.npz`.
"""
import argparse
import os
import signal
import sys
import time

EXPERIMENTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'experiments')
sys.path.insert(0, EXPERIMENTS)

import train  # before mxnet: it sets the number of threads

# isort: split
import checkpoint
import numpy as np
import psutil
import run
import workers

LAUNCHERS = 'launch_local', 'horovodrun'


def launcher():
    """The process id of the outermost launcher of workers."""
    return [process.pid for process in psutil.Process().parents()
            if any(name in ' '.join(process.cmdline()) for name in LAUNCHERS)][-1]


def stop_in_batch(number, wanted, to_launcher):
    """Send a signal after the update of this number, to this process or to its launcher."""
    class Bar(run.tqdm):
        """A progress bar that counts the updates, also while it shows nothing."""

        def __init__(self, *args, initial=0, **kwargs):
            super().__init__(*args, initial=initial, **kwargs)
            self.updates = initial

        def update(self, n=1):
            self.updates += n
            if self.updates == number:
                handler = signal.getsignal(wanted)
                os.kill(launcher() if to_launcher else os.getpid(), wanted)
                # The training must not go on before the signal has come back to this process.
                until = time.monotonic() + 60
                while to_launcher and not handler.__self__.received:
                    assert time.monotonic() < until, 'no signal has come'
                    time.sleep(0.01)
            return super().update(n)

    run.tqdm = Bar


def stop_while_saving(number, wanted):
    """Send a signal to this process in place of its `number`th file operation of a checkpoint."""
    done = []

    def counted(function):
        def call(*args, **kwargs):
            done.append(function)
            if len(done) == number:
                os.kill(os.getpid(), wanted)
            return function(*args, **kwargs)
        return call

    for name in '_save_arrays', '_to_disk', '_remove':
        setattr(checkpoint, name, counted(getattr(checkpoint, name)))
    os.rename = counted(os.rename)


def main():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument('--keep')
    parser.add_argument('--stop', type=int, help='after which update')
    parser.add_argument('--stop-saving', type=int, help='at which file operation')
    parser.add_argument('--signal', type=lambda name: getattr(signal, name))
    parser.add_argument('--to-launcher', action='store_true')
    parser.add_argument('--rank', type=int, default=0, help='the worker that is stopped')
    args, arguments = parser.parse_known_args()
    made = []

    class Workers(workers.Workers):
        """Knows its rank before the training begins."""

        def __init__(self, options):
            super().__init__(options)
            made.append(self)
            if args.stop and self.rank == args.rank:
                stop_in_batch(args.stop, args.signal, args.to_launcher)
            if args.stop_saving and self.rank == args.rank:
                stop_while_saving(args.stop_saving, args.signal)

    train.Workers = Workers

    def main_of_worker():
        trained = train.train(train.parse(arguments))
        if args.keep:
            np.savez(os.path.join(args.keep, '%d.npz' % made[0].rank),
                     embedding=trained.embedding, centers=trained.centers)
    run.script(main_of_worker)


if __name__ == '__main__':
    main()
