"""Workers over Horovod; where it is not installed, `make horovod` builds it."""
import json
import os
import subprocess
import sys

import horovod_worker
import pytest

try:
    import horovod.mxnet  # noqa: F401
except ImportError:
    pytest.skip('needs Horovod, built for MXNet: `make horovod`', allow_module_level=True)

# With as many threads as processors, workers would add up in another order than one process.
ONE_THREAD = {**os.environ, 'OMP_NUM_THREADS': '1'}
RUN = os.path.join(os.path.dirname(sys.executable), 'horovodrun')


def launch(workers, *arguments, timeout=120):
    """Run the worker on so many processes of this machine: its CompletedProcess."""
    return subprocess.run([RUN, '--gloo', '-np', str(workers), '-H', f'localhost:{workers}',
                           sys.executable, horovod_worker.__file__, *map(str, arguments)],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout,
                          universal_newlines=True, check=False, env=ONE_THREAD)


def ends(folder, workers):
    """What became of workers that ran shielded: a dict with their code and output each."""
    return [json.loads((folder / f'{rank}.json').read_text()) for rank in range(workers)]


@pytest.mark.parametrize('way, workers, contexts', [
    ('store', 2, 2), ('store', 3, 1), ('trainer', 3, 1), ('module', 2, 2), ('module', 3, 1),
    ('optimizer', 3, 1)])
def test_all_parameters_are_those_of_one_process(way, workers, contexts, tmp_path):
    done = launch(workers, way, tmp_path, '--contexts', contexts)
    assert done.returncode == 0, done.stdout
    horovod_worker.check(way, tmp_path, workers, contexts)


@pytest.mark.parametrize('fault, workers, says', [
    ('die', 3, ''), ('leave', 2, ''), ('fail', 2, 'a fault of its own'),
    ('mislabel', 3, 'must be a whole number from 0 to 4')])
def test_a_worker_that_drops_out(fault, workers, says, tmp_path):
    """It and the others end, each by itself, and the others say why."""
    done = launch(workers, 'store', tmp_path, '--fault', fault, '--shielded')
    assert done.returncode == 0, done.stdout
    *others, last = ends(tmp_path, workers)
    assert last['code'] == {'die': -9, 'leave': 0}.get(fault, 1), last['output']
    assert says in last['output']
    for other in others:
        assert other['code'] == 1, other['output']
        assert 'Horovod has been shut down' in other['output'].splitlines()[-1]


def test_horovodrun_ends_with_a_worker_that_dies(tmp_path):
    done = launch(2, 'store', tmp_path, '--fault', 'die', timeout=60)
    assert done.returncode != 0
    assert 'Process name: 1\nExit code: 137' in done.stdout


def test_the_store_by_itself(child):
    """One process, which needs no launcher: what MXNet's trainers ask of a store."""
    done = child('''if True:
        import center_loss_op.horovod
        import mxnet as mx
        store, other = mx.kv.create('horovod'), center_loss_op.horovod.Horovod()
        assert type(store) is type(other) is center_loss_op.horovod.Horovod
        assert (store.rank, store.num_workers) == (0, 1)
        assert not store.is_capable('optimizer')
        for kind in 'float16', 'float32', 'float64':
            one, two, out = (mx.nd.array([[1, 2]], mx.cpu(i), kind) * (i + 1) for i in range(3))
            store.pushpull('in its place', one)
            assert one.asnumpy().tolist() == [[1, 2]]
            store.pushpull('elsewhere', [one, two], out=out)
            assert out.asnumpy().tolist() == [[3, 6]] and one.asnumpy().tolist() == [[1, 2]]
            store.pushpull(1, [one, two])
            assert one.asnumpy().tolist() == two.asnumpy().tolist() == [[3, 6]]
            store.broadcast(2, one, out=[two, out])
            assert two.asnumpy().tolist() == out.asnumpy().tolist() == [[3, 6]]
        # The same key of two stores at once: Horovod refuses two sums of one name.
        arrays = [mx.nd.ones((1 << 20,)) for _ in range(2)]
        for _ in range(20):
            for each, array in zip((store, other), arrays):
                each.pushpull('both', array)
        mx.nd.waitall()
        net = mx.gluon.nn.Dense(1, in_units=1)
        net.initialize()
        trainer = mx.gluon.Trainer(net.collect_params(), 'sgd', kvstore=store,
                                   update_on_kvstore=True)
        with mx.autograd.record():
            loss = net(mx.nd.ones((1, 1)))
        loss.backward()
        try:
            trainer.step(1)
        except ValueError as error:
            print(error)
        ''')
    assert done.returncode == 0, done.stderr
    assert 'Please set update_on_kvstore=False when training with' in done.stdout


@pytest.mark.parametrize('times', [2, pytest.param(20, marks=pytest.mark.soak)])
def test_workers_end_with_operators_queued(times, tmp_path):
    """By return, one of them in the midst of a step, with sums that nobody waits for."""
    script = tmp_path / 'ends.py'
    script.write_text('''if True:
        import center_loss_op.horovod
        import mxnet as mx
        store = center_loss_op.horovod.Horovod()
        net = mx.gluon.nn.Dense(3, in_units=2)
        loss = center_loss_op.gluon.CenterLoss(3, in_units=3)
        net.initialize()
        loss.initialize()
        trainer = mx.gluon.Trainer(net.collect_params(), 'sgd', kvstore=store)
        center_trainer = center_loss_op.gluon.CenterTrainer(loss, store)
        for step in range(4):
            with mx.autograd.record():
                out = loss(net(mx.nd.ones((4, 2))), mx.nd.array([0, 1, 2, 0]))
            out.backward()
            trainer.step(8)
            if step < 3 or store.rank:
                center_trainer.step()
        ''')
    for _ in range(times):
        done = launch(2, 'store', tmp_path, '--program', script, '--shielded')
        assert done.returncode == 0, done.stdout
        first, second = ends(tmp_path, 2)
        assert first['code'] == 0, first
        assert second['code'] == 1 and 'Horovod has been shut down' in second['output']
