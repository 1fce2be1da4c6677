"""Decorrelation, which keeps center loss from folding the features into a few directions.

Compact classes are also had from features that repeat each other, beside batch normalization above
all, which fixes the size of each feature alone. Strangers are told apart by the other directions.
"""


def decorrelation(F, embedding):
    """How much the features of a batch repeat each other, P, once for each sample.

    P = 1/(2d) · Σ_{j≠k} C_jk², with the covariance of the batch C = 1/N · Σ_i q_i q_iᵀ, where
    q_i = x_i − mean(x).

    Parameters
    ----------
    F : module
        mxnet.ndarray or mxnet.symbol.
    embedding : NDArray or Symbol, (N, d)

    Returns
    -------
    NDArray or Symbol
        (N,), as other losses have it, beside which a weight means the same then.

    Source: DeCov of Cogswell et al., "Reducing Overfitting in Deep Networks by Decorrelating
    Representations", ICLR 2016, divided by d.
    """
    zeros = F.sum(F.zeros_like(embedding), axis=1)
    samples = F.sum(F.ones_like(zeros), keepdims=True)
    apart = F.broadcast_sub(embedding, F.mean(embedding, axis=0, keepdims=True))
    covariance = F.broadcast_div(F.dot(apart, apart, transpose_a=True),
                                 F.expand_dims(samples, axis=1))
    others = covariance - F.diag(F.diag(covariance))
    return F.broadcast_add(zeros, 0.5 * F.sum(F.mean(F.square(others), axis=1)))
