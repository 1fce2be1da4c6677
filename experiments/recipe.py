"""How the examples learn: optimizer, learning rate and λ, for both of them."""
import center_loss_op  # before mxnet, for newer NumPys; pylint: disable=unused-import
import mxnet as mx

_WARMUP = 50


def schedule(lr, updates):
    """The learning rate of update 1 to `updates`: a warm-up, then down to 0 along a cosine.

    Without the warm-up the first steps can throw the features so far out that none comes back.
    """
    return mx.lr_scheduler.CosineScheduler(updates, base_lr=lr, warmup_begin_lr=lr / _WARMUP,
                                           warmup_steps=min(_WARMUP, updates // 2))


def weights(options, update, updates):
    """The weights of the softmax and the center loss in update 1 to `updates`.

    λ rises evenly over a share of them, `center_warmup`. A large λ gathers the features better, but
    from the beginning on it would do so before the classes lie apart.
    """
    softmax_weight, center_weight = options.weights
    warmup = options.center_warmup * updates
    return softmax_weight, center_weight * (min(1., update / warmup) if warmup else 1.)


def optimizer(batch_size, begin_num_update=0, sym=None):
    """Adam; the gradients are sums over `batch_size` samples.

    Of a symbol graph, `sym`, it takes each variable's multiple of the learning rate; a block's
    parameters bring their own.

    The gradient of center loss grows with the features. SGD, fast enough for softmax alone,
    diverges with λ = 1; Adam's steps do not depend on the size of a gradient.
    """
    return mx.optimizer.Adam(rescale_grad=1 / batch_size, begin_num_update=begin_num_update,
                             sym=sym)
