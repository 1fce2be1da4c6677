"""`Module.predict` of a center loss whose output is one number, with reduction 'mean' or 'sum'.

MXNet cuts the padding of the last batch off each output, and fails if it has one number.
"""
from contextlib import contextmanager
from functools import wraps

import mxnet as mx

from .graph import center_losses

__all__ = ['install']


class _Whole(mx.nd.NDArray):
    """An array of which every slice is the array."""
    __slots__ = ()

    def __getitem__(self, key):
        return self


@contextmanager
def _numbers_stay_whole(module):
    """Let `module.get_outputs` return the losses of a whole batch as a `_Whole`."""
    losses = {f'{loss.name}_output' for loss in center_losses(module.symbol)
              if loss.attributes.get('reduction', 'mean') != 'none'}
    get_outputs = module.get_outputs

    def get_outputs_and_whole_losses(*args, **kwargs):
        outputs = list(get_outputs(*args, **kwargs))
        for place, name in enumerate(module.output_names):
            if name in losses:
                outputs[place] = outputs[place].detach()
                outputs[place].__class__ = _Whole
        return outputs
    module.get_outputs = get_outputs_and_whole_losses
    try:
        yield
    finally:
        del module.get_outputs


def install():
    """Replace `BaseModule.predict` and `BaseModule.iter_predict`."""
    base = mx.mod.BaseModule
    of_all, of_each_batch = base.predict, base.iter_predict

    @wraps(of_all)
    def predict(self, *args, **kwargs):
        with _numbers_stay_whole(self):
            return of_all(self, *args, **kwargs)

    @wraps(of_each_batch)
    def iter_predict(self, *args, **kwargs):
        with _numbers_stay_whole(self):
            yield from of_each_batch(self, *args, **kwargs)
    base.predict, base.iter_predict = predict, iter_predict
    return 'replaced'
