"""Start a distributed training on this machine: a scheduler, servers and workers.

    python examples/launch_local.py -n 2 python examples/train_workers.py

    -n, --num-workers N   how many times to start the command (required)
    -s, --num-servers S   how many servers add up the gradients (1); more help only where one
                          server is the bottleneck, which is rare on one machine

Everything after the options is the command that each worker runs. Every line of output begins with
the name of the process that wrote it; of a progress bar, a line appears every two seconds. The
launcher sets the environment variables that `mx.kv.create('dist_sync')` reads (DMLC_ROLE and
others). When one process fails, it ends all others, and its exit code is that of the first to fail.

On several machines use MXNet's own launcher, tools/launch.py; MXNet's wheel does not contain it.
"""
import argparse
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

GRACE = 5               # seconds that a process gets to end by itself
BETWEEN_PROGRESS = 2    # seconds between two lines of one progress bar


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def start(name, command, role, settings):
    """Start `command` in `role`, its output prefixed with `name`."""
    process = subprocess.Popen(
        # Unbuffered: Python keeps what it prints into a pipe back until it has 8 KiB of it.
        command, env={'PYTHONUNBUFFERED': '1', **os.environ, **settings, 'DMLC_ROLE': role},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True)  # a group of its own, so that its children end with it
    process.name = name
    process.printer = threading.Thread(target=print_lines, args=(name, process.stdout), daemon=True)
    process.printer.start()
    return process


def print_lines(name, stream):
    """Print the lines of a stream, and now and then the state of a progress bar.

    A bar ends each state with a carriage return, and writes a newline only when it is full. So
    waiting for whole lines would show nothing until the training has ended.
    """
    def show(line):
        # One write, so that the lines of two processes do not mix.
        sys.stdout.write(f'[{name}] {line.decode(errors="replace").rstrip()}\n')
        sys.stdout.flush()

    begun, shown = b'', -math.inf
    for chunk in iter(lambda: stream.read1(1 << 16), b''):
        *ended, begun = re.split(rb'(?<=\n)|(?<=\r)(?!\n)', begun + chunk)
        for line in ended:
            if line.endswith(b'\n'):
                show(line)
            elif line.strip() and time.monotonic() - shown > BETWEEN_PROGRESS:
                show(line)
                shown = time.monotonic()
    if begun:
        show(begun)


def end(processes):
    """End all processes that still run, and wait for them."""
    for wanted in (signal.SIGTERM, signal.SIGKILL):
        running = [process for process in processes if process.poll() is None]
        for process in running:
            try:
                os.killpg(process.pid, wanted)
            except ProcessLookupError:
                pass
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline and any(one.poll() is None for one in running):
            time.sleep(0.05)
    for process in processes:
        process.printer.join(GRACE)


def watch(workers, others):
    """Wait until all workers are done, or one process has failed.

    Returns
    -------
    int
        0, or the exit code of the first process that failed.
    """
    deadline = None
    while True:
        for process in workers + others:
            code = process.poll()
            if code:
                code = code if code > 0 else 128 - code  # as a shell reports a signal
                print(f'launch_local: {process.name} failed with exit code {code}; '
                      'ending the others', file=sys.stderr, flush=True)
                return code
        if all(worker.poll() == 0 for worker in workers):
            # Scheduler and servers end with the last worker.
            deadline = deadline or time.monotonic() + GRACE
            if all(other.poll() == 0 for other in others) or time.monotonic() > deadline:
                return 0
        time.sleep(0.1)


def main():
    sys.stdout.reconfigure(errors='replace')    # for terminals that have no λ
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('-n', '--num-workers', type=int, required=True, metavar='N',
                        help='how many times to start the command')
    parser.add_argument('-s', '--num-servers', type=int, default=1, metavar='S',
                        help='how many servers add up the gradients (default: 1)')
    parser.add_argument('command', nargs=argparse.REMAINDER, help='what each worker runs')
    args = parser.parse_args()
    if args.num_workers < 1 or args.num_servers < 1:
        parser.error('--num-workers and --num-servers must be at least 1')
    if not args.command:
        parser.error('name the command that each worker runs')

    settings = {'DMLC_PS_ROOT_URI': '127.0.0.1', 'DMLC_NODE_HOST': '127.0.0.1',
                'DMLC_PS_ROOT_PORT': str(free_port()),
                'DMLC_NUM_WORKER': str(args.num_workers),
                'DMLC_NUM_SERVER': str(args.num_servers)}
    # In these roles, importing MXNet runs them, until the workers are done.
    serve = [sys.executable, '-c', 'import center_loss_op']
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    processes = []
    try:
        others = [start('scheduler', serve, 'scheduler', settings)]
        processes += others
        for index in range(args.num_servers):
            others.append(start('server %d' % index, serve, 'server', settings))
            processes.append(others[-1])
        workers = []
        for index in range(args.num_workers):
            workers.append(start('worker %d' % index, args.command, 'worker', settings))
            processes.append(workers[-1])
        return watch(workers, others)
    except OSError as error:
        print('launch_local: cannot start %s: %s' % (args.command[0], error), file=sys.stderr)
        return 127
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        end(processes)


if __name__ == '__main__':
    sys.exit(main())
