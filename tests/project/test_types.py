"""Type hints of the public API, for editors and type checkers: complete, and py.typed says so."""
import inspect
import os
import typing

import center_loss_op
from center_loss_op import gluon, legacy, module, symbol

PUBLIC = [symbol.center_loss, symbol.decorrelation_loss, center_loss_op.nearest_center,
          legacy.load_symbol, legacy.load_checkpoint,
          gluon.DecorrelationLoss.__init__, gluon.DecorrelationLoss.weight.fget,
          gluon.CenterLoss.__init__,
          gluon.CenterLoss.centers.fget, gluon.CenterLoss.alpha.fget,
          gluon.CenterLoss.alpha.fset, gluon.CenterLoss.weight.fget,
          gluon.CenterLoss.weight.fset, gluon.CenterLoss.key.fget, gluon.CenterLoss.update,
          gluon.CenterTrainer.__init__, gluon.CenterTrainer.step, module.CenterTrainer.__init__,
          module.CenterTrainer.__call__, module.CenterTrainer.step, module.CenterTrainer.alpha.fget,
          module.CenterTrainer.alpha.fset]


def test_every_parameter_and_result_has_a_type():
    for function in PUBLIC:
        hints = typing.get_type_hints(function)
        names = set(inspect.signature(function).parameters) - {'self'}
        assert names | {'return'} == set(hints), function
        for name, parameter in inspect.signature(function).parameters.items():
            hint = hints.get(name)
            if parameter.default not in (parameter.empty, None) and isinstance(hint, type):
                allowed = (int, float) if hint is float else hint
                assert isinstance(parameter.default, allowed), (function, name)


def test_the_public_names_are_all_listed():
    listed = {function.__qualname__.split('.')[0] for function in PUBLIC}
    public = {name for part in (gluon, legacy, module, symbol) for name in part.__all__}
    assert public | {'nearest_center'} == listed


def test_py_typed():
    assert os.path.exists(os.path.join(os.path.dirname(center_loss_op.__file__), 'py.typed'))


def test_import_of_everything_replaces_nothing_of_mxnets(child):
    done = child('import center_loss_op, mxnet as mx\nfrom mxnet import gluon, module, symbol\n'
                 'from center_loss_op import *\n'
                 'assert (gluon, module, symbol) == (mx.gluon, mx.module, mx.symbol)\n'
                 'gluon.Trainer, nearest_center, legacy')
    assert done.returncode == 0, done.stderr
