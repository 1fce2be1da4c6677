"""Center loss for symbol graphs."""
from typing import Optional

import mxnet as mx

from ._mxnet.graph import OP_TYPE
from ._operator.arguments import Arguments, docstring_entries, flag, non_negative_number
from ._operator.decorrelation import decorrelation

__all__ = ['center_loss', 'decorrelation_loss']


def center_loss(data: mx.sym.Symbol, label: mx.sym.Symbol, num_class: int, alpha: float = 0.5,
                scale: float = 1.0, reduction: str = 'none', use_ignore: bool = False,
                ignore_label: float = -1, need_top_grad: bool = False, key: str = '',
                scale_output: bool = False, name: Optional[str] = None) -> mx.sym.Symbol:
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
    _check_symbol('data', data)
    _check_symbol('label', label)
    arguments = Arguments(num_class=num_class, alpha=alpha, scale=scale, reduction=reduction,
                          use_ignore=use_ignore, ignore_label=ignore_label,
                          need_top_grad=need_top_grad, scale_output=scale_output, key=key)
    return mx.sym.Custom(data=data, label=label, op_type=OP_TYPE, name=name,
                         **dict(arguments.items()))


if center_loss.__doc__:  # not under python -OO
    center_loss.__doc__ %= '\n'.join(docstring_entries(center_loss).values())


def decorrelation_loss(data: mx.sym.Symbol, scale: float = 1.0, need_top_grad: bool = False,
                       name: Optional[str] = None) -> mx.sym.Symbol:
    """Decorrelation of the features as a node of a symbol graph: a companion of center loss.

    The output is P = 1/(2d) · Σ_{j≠k} C_jk² for every sample, with the covariance of the batch
    C = 1/N · Σ_i (x_i − mean(x)) (x_i − mean(x))ᵀ; the gradient is scale · N · ∂P/∂x, which a
    Module's optimizer divides by N. What it is for, and beside which batch normalization:
    :class:`center_loss_op.gluon.DecorrelationLoss`.

    Parameters
    ----------
    data : Symbol
        The features, (N, d): float32 or float64.
    scale : float, default 1.0
        The weight, of the gradient only: finite and >= 0. docs/results.md used 0.1.
    need_top_grad : bool, default False
        False: a loss layer like SoftmaxOutput, which ignores the gradient of its output and every
        factor around it; True: a part of a larger loss.
    name : str, optional
        The name of the node.

    Returns
    -------
    Symbol
        Shape (N,).

    Raises
    ------
    TypeError, ValueError
        At once, for an argument of the wrong type or with an impossible value.

    Examples
    --------
    >>> net = mx.sym.Group([softmax, center, decorrelation_loss(embedding, scale=0.1)])

    Source: DeCov of Cogswell et al., ICLR 2016, divided by d.
    """
    _check_symbol('data', data)
    scale = non_negative_number('scale', scale)
    need_top_grad = flag('need_top_grad', need_top_grad)
    loss = decorrelation(mx.sym, data)
    if not need_top_grad:
        return mx.sym.MakeLoss(loss, grad_scale=scale, name=name)
    return mx.sym.elemwise_add(scale * loss, mx.sym.BlockGrad((1 - scale) * loss), name=name)


def _check_symbol(role, value):
    if not isinstance(value, mx.sym.Symbol):
        raise TypeError('%s must be a Symbol, got %r' % (role, value))
