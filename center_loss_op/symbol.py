"""Center loss for symbol graphs."""
from typing import Any, Optional

import mxnet as mx

from ._mxnet.graph import OP_TYPE
from ._operator import arguments
from ._operator.decorrelation import decorrelation

__all__ = ['center_loss', 'decorrelation_loss']

# Arguments of the operator that were arguments of `center_loss`, and what is written now.
_OLD = {'key': 'give the node to module.CenterTrainer',
        'scale_output': "use mx.sym.Custom(…, op_type='centerloss', scale_output=True)"}


# Other implementations have λ in fourth place, so α and λ are given by name.
@arguments.explained
def center_loss(data: mx.sym.Symbol, label: mx.sym.Symbol, num_class: int, *,
                alpha: float = 0.5, scale: float = 1.0, reduction: str = 'none',
                use_ignore: bool = False, ignore_label: float = -1, need_top_grad: bool = False,
                center_bias: Optional[mx.sym.Symbol] = None, name: Optional[str] = None,
                **old: Any) -> mx.sym.Symbol:
    """Center loss of Wen et al., ECCV 2016 (equations 2, 4 and 5), as a node of a symbol graph.

%(formulas)s

    Parameters
    ----------
    data, label : Symbol
        Features, (N, d), and labels, (N,) or (N, 1), whole numbers from 0 to C − 1.
%(arguments)s
    center_bias : Symbol, optional
        A variable for the centers: to initialize, to share, or to read them (docs/using.md). If its
        name does not end in ``_bias``, it needs `init`. None: ``<name>_center_bias``, all 0.
    name : str, optional
        The name of the node.
    **old
        `key` and `scale_output`, as in version 2: each works, and warns once.

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
    for other in old:
        if other not in _OLD:
            raise TypeError(f'center_loss() got an unexpected keyword argument {other!r}')
        arguments.warn_once(f'the argument {other} of center_loss is deprecated: {_OLD[other]}', 4)
    given = arguments.Arguments(
        num_class=num_class, alpha=alpha, scale=scale, reduction=reduction, use_ignore=use_ignore,
        ignore_label=ignore_label, need_top_grad=need_top_grad, **old)
    inputs = {'data': data, 'label': label}
    if center_bias is not None:
        _set_dense(center_bias)
        inputs['center_bias'] = center_bias
    return mx.sym.Custom(**inputs, op_type=OP_TYPE, name=name, **dict(given.items()))


arguments.complete_docstring(center_loss)


@arguments.explained
def decorrelation_loss(data: mx.sym.Symbol, scale: float = 1.0, need_top_grad: bool = False,
                       name: Optional[str] = None) -> mx.sym.Symbol:
    """DeCov of Cogswell et al., ICLR 2016, as a node: a companion of center loss.

    `data` holds the features, (N, d): float16 (then the output is float32), float32 or float64. The
    output is P of :class:`center_loss_op.gluon.DecorrelationLoss` for each sample, (N,), without
    `scale`, a number >= 0. The gradient is scale · N · ∂P/∂x, which a Module's optimizer divides by
    N. With `need_top_grad`, it is also multiplied by the gradient of the output. A wrong argument
    raises TypeError or ValueError at once.

    Examples
    --------
    >>> net = mx.sym.Group([softmax, center, decorrelation_loss(embedding, scale=0.1)])
    """
    _check_symbol('data', data)
    scale = arguments.non_negative_number('scale', scale)
    need_top_grad = arguments.flag('need_top_grad', need_top_grad)
    # float16 becomes float32, and other types stay: MXNet has no product of float16 matrices on a
    # CPU, and float16 has too few digits for a covariance.
    zeros = mx.sym.cast(mx.sym.zeros_like(data), 'float32').as_np_ndarray()
    loss = decorrelation(mx.sym, (data.as_np_ndarray() + zeros).as_nd_ndarray())
    if not need_top_grad:
        loss = mx.sym.MakeLoss(loss, grad_scale=scale)
    else:
        loss = scale * loss + mx.sym.BlockGrad((1 - scale) * loss)
    return mx.sym.reshape(loss, shape=(-1,), name=name)


def _check_symbol(role: str, value: Any) -> None:
    if not isinstance(value, mx.sym.Symbol):
        raise TypeError(f'{role} must be a Symbol, got {value!r}')


def _set_dense(variable: Any) -> None:
    """Set the storage type of the variable for the centers.

    Without one, MXNet does not bind a graph in which another operator reads an auxiliary state
    before its own operator comes: "Dispatch mode inconsistent".
    """
    _check_symbol('center_bias', variable)
    if variable.get_children() is not None or variable.list_arguments() != [variable.name]:
        raise ValueError(f'center_bias must be a variable (mx.sym.var), got {variable!r}')
    dense = mx.sym.var('dense', stype='default').attr('__storage_type__')
    if variable.attr('__storage_type__') not in (None, dense):
        raise ValueError("center_bias must have stype='default', got another one of "
                         f'{variable!r}')
    variable._set_attr(__storage_type__=dense)
