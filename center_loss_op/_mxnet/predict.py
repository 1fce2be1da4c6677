"""`Module.predict` of a center loss whose output is one number, with reduction 'mean' or 'sum'.

MXNet cuts the padding of the last batch off each output, and fails if it has one number.
"""
from functools import wraps

import mxnet as mx

from .graph import center_losses


class _Whole(mx.nd.NDArray):
    """An array of which every slice is the array."""
    __slots__ = ()

    def __getitem__(self, key):
        return self


class _Module:
    """A module whose losses of a whole batch are of the class `_Whole`."""

    def __init__(self, module):
        self._module = module
        self._losses = {f'{loss.name}_output' for loss in center_losses(module.symbol)
                        if loss.attributes.get('reduction', 'mean') != 'none'}

    def __getattr__(self, name):
        return getattr(self._module, name)

    def get_outputs(self, *args, **kwargs):
        outputs = list(self._module.get_outputs(*args, **kwargs))
        for place, name in enumerate(self._module.output_names):
            if name in self._losses:
                outputs[place] = outputs[place].detach()
                outputs[place].__class__ = _Whole
        return outputs


def _with_whole_losses(predict):
    @wraps(predict)
    def predict_with_whole_losses(self, *args, **kwargs):
        module = self if self.symbol is None else _Module(self)     # as that of a SequentialModule
        return predict(module, *args, **kwargs)
    return predict_with_whole_losses


def install():
    """Replace `BaseModule.predict` and `BaseModule.iter_predict`."""
    base = mx.mod.BaseModule
    base.predict, base.iter_predict = map(_with_whole_losses, (base.predict, base.iter_predict))
    return 'replaced'
