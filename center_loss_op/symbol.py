"""Center loss for symbol graphs."""
from typing import Optional

import mxnet as mx

from .nodes import OP_TYPE
from .params import DOC, Params

__all__ = ['center_loss']


def center_loss(data: mx.sym.Symbol, label: mx.sym.Symbol, num_class: int, alpha: float = 0.5,
                scale: float = 1.0, reduction: str = 'none', use_ignore: bool = False,
                ignore_label: float = -1, need_top_grad: bool = False, key: str = '',
                name: Optional[str] = None) -> mx.sym.Symbol:
    """Center loss as a node of a symbol graph.

    The output is the loss, ½ ‖x_i − c_{y_i}‖² reduced over the batch; the gradient is
    scale · r · (x_i − c_{y_i}), r = 1/M for 'mean' and 1 otherwise, M being the number of
    samples that count. A Module's optimizer divides by the batch, so beside a SoftmaxOutput λ is
    the paper's with 'none' or 'sum', and N times too small with 'mean': docs/lambda.md. The
    backward pass moves the centers:
    c_j ← c_j − α · Σ_{i: y_i=j} (c_j − x_i) / (1 + n_j).
    They are the auxiliary state ``<name>_center_bias``, shape (C, d).

    Parameters
    ----------
    data : Symbol
        The features, (N, d): float16, float32 or float64.
    label : Symbol
        (N,) or (N, 1), whole numbers from 0 to C − 1, any real type. The variable of
        SoftmaxOutput's label can serve here too.
%s
    name : str, optional
        The name of the node.

    Returns
    -------
    Symbol
        Shape (1,) for 'mean' and 'sum', (N,) for 'none'.

    Raises
    ------
    TypeError, ValueError
        At once, for an argument of the wrong type or with an impossible value.

    Examples
    --------
    >>> softmax = mx.sym.SoftmaxOutput(scores, label, name='softmax')
    >>> center = center_loss(embedding, label, num_class=10, scale=0.1, name='center_loss')
    >>> net = mx.sym.Group([softmax, center])

    Source: Wen et al., ECCV 2016, equations 2, 4 and 5.
    """
    for role, symbol in (('data', data), ('label', label)):
        if not isinstance(symbol, mx.sym.Symbol):
            raise TypeError('%s must be a Symbol, got %r' % (role, symbol))
    params = Params(num_class=num_class, alpha=alpha, scale=scale, reduction=reduction,
                    use_ignore=use_ignore, ignore_label=ignore_label, need_top_grad=need_top_grad,
                    key=key)
    return mx.sym.Custom(data=data, label=label, op_type=OP_TYPE, name=name,
                         **dict(params.items()))


if center_loss.__doc__:  # not under python -OO
    center_loss.__doc__ %= DOC.replace("default 'mean'", "default 'none'")
