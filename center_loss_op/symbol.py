"""Center loss for symbol graphs."""
from typing import Optional

import mxnet as mx

from ._mxnet.graph import OP_TYPE
from ._operator.arguments import (
    Arguments,
    complete_docstring,
    explained,
    flag,
    non_negative_number,
)
from ._operator.decorrelation import decorrelation

__all__ = ['center_loss', 'decorrelation_loss']


# Other implementations have λ in fourth place, so α and λ are given by name.
@explained
def center_loss(data: mx.sym.Symbol, label: mx.sym.Symbol, num_class: int, *,
                alpha: float = 0.5, scale: float = 1.0, reduction: str = 'none',
                use_ignore: bool = False, ignore_label: float = -1, need_top_grad: bool = False,
                key: str = '', scale_output: bool = False,
                center_bias: Optional[mx.sym.Symbol] = None,
                name: Optional[str] = None) -> mx.sym.Symbol:
    """Center loss of Wen et al., ECCV 2016 (equations 2, 4 and 5), as a node of a symbol graph.

%(formulas)s

    M samples count, n_j of them of class j; λ is `scale`, α `alpha`. A Module's optimizer divides
    by the batch: next to a SoftmaxOutput, 'mean' makes λ N times too small (docs/lambda.md).

    Parameters
    ----------
    data : Symbol
        The features, (N, d): float16, float32 or float64.
    label : Symbol
        (N,) or (N, 1), whole numbers from 0 to C − 1, any real type: SoftmaxOutput's, for example.
%(arguments)s
    center_bias : Symbol, optional
        A variable for the centers, to initialize them
        (``mx.sym.var('centers', init=mx.init.Normal(1))``), to share them between two nodes, or to
        read them in another term of the loss by ``mx.sym.identity(centers)``, which holds the
        centers before the update. A name that does not end in ``_bias`` needs `init`, and a term of
        the centers alone that ends in MakeLoss needs ``dtype='float32'``. Without a variable they
        are called ``<name>_center_bias`` and start at 0.
    name : str, optional
        The name of the node.

    Raises
    ------
    TypeError, ValueError
        At once, if an argument has the wrong type or an impossible value.

    Examples
    --------
    >>> softmax = mx.sym.SoftmaxOutput(scores, label, name='softmax')
    >>> center = center_loss(embedding, label, num_class=10, scale=0.1, name='center_loss')
    >>> net = mx.sym.Group([softmax, center])
    """
    _check_symbol('data', data)
    _check_symbol('label', label)
    arguments = Arguments(num_class=num_class, alpha=alpha, scale=scale, reduction=reduction,
                          use_ignore=use_ignore, ignore_label=ignore_label,
                          need_top_grad=need_top_grad, scale_output=scale_output, key=key)
    inputs = {'data': data, 'label': label}
    if center_bias is not None:
        inputs['center_bias'] = _dense_variable('center_bias', center_bias)
    return mx.sym.Custom(**inputs, op_type=OP_TYPE, name=name, **dict(arguments.items()))


complete_docstring(center_loss)


@explained
def decorrelation_loss(data: mx.sym.Symbol, scale: float = 1.0, need_top_grad: bool = False,
                       name: Optional[str] = None) -> mx.sym.Symbol:
    """DeCov of Cogswell et al., ICLR 2016, over d, as a node: a companion of center loss.

    The output is P = 1/(2d) · Σ_{j≠k} C_jk² for every sample, (N,), where
    C = 1/N · Σ_i (x_i − mean(x)) (x_i − mean(x))ᵀ is the covariance of the batch. The gradient is
    scale · N · ∂P/∂x; a Module's optimizer divides it by N. What it is for, and which batch
    normalization it needs: :class:`center_loss_op.gluon.DecorrelationLoss`.

    Parameters
    ----------
    data : Symbol
        The features, (N, d): float16 (the output is float32 then), float32 or float64.
    scale : float, default 1.0
        The weight of the gradient, not of the output: finite and >= 0. docs/results.md uses 0.1.
    need_top_grad : bool, default False
        False: a loss layer like SoftmaxOutput, which ignores the gradient of its output, and with
        it every factor around the loss. True: a part of a larger loss.
    name : str, optional
        The name of the node.

    Raises
    ------
    TypeError, ValueError
        At once, if an argument has the wrong type or an impossible value.

    Examples
    --------
    >>> net = mx.sym.Group([softmax, center, decorrelation_loss(embedding, scale=0.1)])
    """
    _check_symbol('data', data)
    scale = non_negative_number('scale', scale)
    need_top_grad = flag('need_top_grad', need_top_grad)
    # float16 becomes float32, and other types stay: MXNet has no product of float16 matrices on a
    # CPU, and float16 has too few digits for a covariance.
    zeros = mx.sym.cast(mx.sym.zeros_like(data), 'float32').as_np_ndarray()
    loss = decorrelation(mx.sym, (data.as_np_ndarray() + zeros).as_nd_ndarray())
    if not need_top_grad:
        loss = mx.sym.MakeLoss(loss, grad_scale=scale)
    else:
        loss = scale * loss + mx.sym.BlockGrad((1 - scale) * loss)
    return mx.sym.reshape(loss, shape=(-1,), name=name)


def _check_symbol(role, value):
    if not isinstance(value, mx.sym.Symbol):
        raise TypeError('%s must be a Symbol, got %r' % (role, value))


def _dense_variable(role, value):
    """`value` if it is a variable of dense arrays; sets its storage type if it has none.

    Without a storage type MXNet does not bind a graph in which another operator reads an auxiliary
    state before its own operator comes: "Dispatch mode inconsistent".
    """
    _check_symbol(role, value)
    if value.get_children() is not None or value.list_arguments() != [value.name]:
        raise ValueError(f'{role} must be a variable (mx.sym.var), got {value!r}')
    dense = mx.sym.var('dense', stype='default').attr('__storage_type__')
    if value.attr('__storage_type__') not in (None, dense):
        raise ValueError(f"{role} must have stype='default', as dense arrays have, got {value!r} "
                         'with another storage type')
    value._set_attr(__storage_type__=dense)
    return value
