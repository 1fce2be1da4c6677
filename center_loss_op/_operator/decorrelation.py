"""Decorrelation: keeps center loss from making features redundant (docs/results.md)."""
import mxnet as mx


def decorrelation(F, embedding):
    """P of :class:`center_loss_op.gluon.DecorrelationLoss` for features, (N, d), as (N, 1).

    One value per sample, as other losses have, so that weights mean the same. All intermediate
    values have two axes as well, because mx.viz.print_summary fails on one.
    """
    mean = F.mean(embedding, axis=0, keepdims=True)
    apart = F.broadcast_sub(embedding, mean)
    # MXNet's error about features of another shape names the operator by this.
    name = mx.name.NameManager.current.get(None, 'decorrelation_takes_two_axes')
    columns = F.transpose(apart, axes=(1, 0), name=name)
    zeros = F.sum(F.zeros_like(embedding), axis=1, keepdims=True)
    samples = F.sum(F.ones_like(zeros), axis=0, keepdims=True)
    covariance = F.broadcast_div(F.dot(columns, apart), samples)
    number = F.contrib.arange_like(F.BlockGrad(mean))
    others = covariance * F.broadcast_not_equal(number, F.transpose(number))
    repeated = F.sum(F.mean(F.square(others), axis=1, keepdims=True), axis=0, keepdims=True)
    return F.broadcast_add(0.5 * repeated, zeros)
