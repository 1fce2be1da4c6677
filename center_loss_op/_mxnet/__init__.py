"""What has to be done because of MXNet 1.9.1, and all that an import of the package changes."""
import importlib
from typing import Dict, NamedTuple, Optional

NO_HANG = 'tests/_mxnet/test_process.py::test_no_hang'


class Change(NamedTuple):
    """What is changed, the fault that this prevents, and the test that shows the fault.

    `function` makes the change at import, and returns what it did, or None if it is not needed.
    Without a function it is made `when` the program uses something.
    """
    what: str
    prevents: str
    test: str
    function: Optional[str] = None
    when: str = 'import'


# All that this package changes in MXNet, Python, NumPy or the process.
CHANGES = [
    Change('names in NumPy that newer releases removed',
           'MXNet cannot be imported with NumPy 1.24 and later',
           'tests/_mxnet/test_compat.py::test_numpy_has_each_name_that_mxnet_reads',
           '_mxnet.compat:install_numpy_names'),
    Change('sys.meta_path: a last finder, for onnx.mapping',
           'ONNX no longer has this module, which MXNet reads to export',
           'tests/_mxnet/test_compat.py::test_onnx_mapping',
           '_mxnet.compat:install_onnx_mapping'),
    Change('multiprocessing: an object in the settings that children inherit',
           'child processes cannot import MXNet with NumPy 1.24 and later',
           'tests/_mxnet/test_compat.py::test_children_of_children',
           '_mxnet.compat:install_in_children'),
    Change('str in mxnet._ctypes.ndarray and mxnet._ctypes.symbol',
           'MXNet cannot read the numbers of NumPy 2 among the arguments of an operator',
           'tests/_mxnet/test_compat.py::test_operators_whose_arguments_hold_numbers_of_numpy',
           '_mxnet.compat:install_text_of_attributes'),
    Change('mxnet.executor.Executor.backward and mxnet.base._LIB.MXAutogradBackwardEx: fences '
           'around them, if there is center loss',
           'a read after a step has the values before it, or a read before it those after it; an '
           'update is lost if a convolution had the centers as its weight meanwhile',
           'tests/_mxnet/test_reading.py::test_reads_before_a_step',
           '_mxnet.centers:install'),
    Change('mxnet.gluon.block.SymbolBlock.__init__: the centers get the class Centers, and their '
           'losses lose the key of a CenterTrainer',
           'a read of the centers of an imported network has the values before a step',
           'tests/_mxnet/test_reading.py::test_reads_of_files_after_a_step',
           '_mxnet.centers:install'),
    Change('mxnet.gluon.block.HybridBlock.export: leaves out the key of a CenterTrainer',
           'a network in a Module moves the centers of the one that it was exported from',
           'tests/_operator/test_gathered.py::test_a_file_has_no_trainer',
           '_mxnet.centers:install'),
    Change('mxnet.ndarray.Custom, mxnet.ndarray.op.Custom and '
           'mxnet._ctypes.ndarray.CachedOp.__init__: center loss gets plain arrays',
           "arrays in oneDNN's layout, such as a reshaped convolution, are read when freed",
           'tests/test_layout.py::test_any_array_is_itself',
           '_mxnet.layout:install'),
    Change('mxnet.module.base_module.BaseModule.predict and '
           'mxnet.module.base_module.BaseModule.iter_predict: a loss of one number stays whole',
           'MXNet fails if the last batch is padded',
           'tests/test_symbol.py::test_predict_of_one_number_per_batch',
           '_mxnet.predict:install'),
    Change('mxnet.base._LIB.MXNotifyShutdown, which MXNet calls at exit: waits for the engine '
           'first, and leaves executors that are alive to the operating system (Executor.__del__)',
           'a process that ends while operators are queued hangs, or crashes on the pooled engine',
           NO_HANG, '_mxnet.process:install'),
    Change('os.register_at_fork, sys.addaudithook for subprocess, and before Python 3.10 '
           'multiprocessing.util.spawnv_passfds: wait for the engine, and restart its threads',
           'a fork, or a program that is started by a plain fork, hangs while operators are queued',
           NO_HANG, '_mxnet.process:install'),
    Change("mxnet.operator._registry: the operator 'centerloss'; for the step in C handlers of "
           'forks (pthread_atfork) and an exit handler (atexit.register)',
           'MXNet does not know the operator; a fork in the midst of a step locks up the child',
           'tests/test_reload.py::test_executed_again',
           '_operator.operator:install'),
    Change('SIGINT, signal.default_int_handler: a handler that defers interrupts while an '
           'exception would be lost, by a profile function (sys.setprofile)',
           'an interrupt in eager training is lost, crashes MXNet, or leaves recording on',
           'tests/_mxnet/test_interrupts.py::test_eager_loop',
           when='use of center loss in the main thread, unless an event loop handles SIGINT'),
    Change('store.broadcast of a key-value store: returns when it is done',
           'a late worker gets the sum of gradients for its parameters',
           'tests/_operator/test_gathered.py::test_all_parameters_of_two_workers',
           when='CenterTrainer(…, kvstore=a store of several workers)'),
    Change('os.environ: MXNET_UPDATE_ON_KVSTORE=0, unless it is set',
           'Module runs the optimizer on servers, which cannot sum the samples of the centers',
           'tests/_operator/test_gathered.py::test_a_server_that_runs_the_optimizer_is_named',
           when='module.CenterTrainer(…)'),
    Change('horovod.mxnet.init(), unless it was called',
           'a store of Horovod that cannot communicate',
           'tests/test_horovod.py::test_the_store_by_itself',
           when='horovod.Horovod()'),
]

# What the functions returned. Stays when this module is executed again.
_done: Dict[str, Optional[str]] = globals().get('_done', {})


def install():
    """Make the changes of an import, each once per process."""
    package = __package__.rpartition('.')[0]
    for change in CHANGES:
        if change.function and change.function not in _done:
            name, function = change.function.split(':')
            module = importlib.import_module(f'{package}.{name}')
            _done[change.function] = getattr(module, function)()


def done(change):
    """What the import did for a change; None if nothing was needed."""
    return _done.get(change.function)
