"""Start a distributed training on this machine: scheduler, servers and workers.

    python experiments/launch_local.py -n 2 python experiments/train.py --kv-store dist_sync

Every line of output is prefixed with who wrote it. When one process fails, all are ended,
and the exit code is that of the first to fail. (MXNet's own launcher, tools/launch.py, is not
part of its wheel. On several machines, use that one.)
"""
import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time

GRACE = 5  # seconds that a process gets to end by itself


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def start(name, command, role, settings):
    """Start `command` in `role`, its output prefixed with `name`."""
    process = subprocess.Popen(
        command, env={**os.environ, **settings, 'DMLC_ROLE': role},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True)  # a group of its own, so that its children end with it
    process.name = name
    process.printer = threading.Thread(target=print_lines, args=(name, process.stdout), daemon=True)
    process.printer.start()
    return process


def print_lines(name, stream):
    for line in iter(stream.readline, b''):
        # A progress bar writes one line over and over: only its last state is of interest here.
        text = line.decode(errors='replace').rstrip('\r\n').rsplit('\r', 1)[-1]
        print('[%s] %s' % (name, text), flush=True)


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
                print('launch_local: %s failed with exit code %d; ending the others'
                      % (process.name, code), file=sys.stderr, flush=True)
                return code
        if all(worker.poll() == 0 for worker in workers):
            # Scheduler and servers end with the last worker.
            deadline = deadline or time.monotonic() + GRACE
            if all(other.poll() == 0 for other in others) or time.monotonic() > deadline:
                return 0
        time.sleep(0.1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('-n', '--num-workers', type=int, required=True)
    parser.add_argument('-s', '--num-servers', type=int, default=1)
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
