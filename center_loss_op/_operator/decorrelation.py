"""Decorrelation: keeps center loss from folding the features into a few directions.

Center loss can make features redundant, above all next to batch normalization, which fixes the size
of each feature. Classes that are not in the training set differ in the directions that get lost.
"""
import mxnet as mx

__all__ = ['decorrelation']


def decorrelation(F, embedding):
    """How much the features of a batch, (N, d), repeat each other: P, once per sample, (N, 1).

    P = 1/(2d) · Σ_{j≠k} C_jk², where C = 1/N · Σ_i q_i q_iᵀ is the covariance of the batch, and
    q_i = x_i − mean(x): DeCov of Cogswell et al., "Reducing Overfitting in Deep Networks by
    Decorrelating Representations", ICLR 2016, divided by d. `F` is mxnet.ndarray or mxnet.symbol.

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
