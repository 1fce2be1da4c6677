"""The recipe of a training: optimizer, learning rate and λ."""
import center_loss_op  # noqa: F401 - before mxnet, for newer NumPys

import mxnet as mx

_WARMUP = 50


def schedule(lr, updates):
    """The learning rate of update 1 to `updates`: a warm-up, then a cosine down to 0.

    Without the warm-up the first steps can make the features so large that the training does not
    recover.
    """
    return mx.lr_scheduler.CosineScheduler(updates, base_lr=lr, warmup_begin_lr=lr / _WARMUP,
                                           warmup_steps=min(_WARMUP, updates // 2))


def weights(options, update, updates):
    """The weights of the softmax and the center loss in update 1 to `updates`.

    λ rises linearly during a share of the updates, `center_warmup`. A large λ makes the classes
    more compact, but from the first update on it would do so before they are separated.
    """
    softmax_weight, center_weight = options.weights
    warmup = options.center_warmup * updates
    return softmax_weight, center_weight * (min(1., update / warmup) if warmup else 1.)


def optimizer(batch_size, begin_num_update=0):
    """Adam, for gradients that are sums over `batch_size` samples.

    The gradient of center loss grows with the features. SGD with a learning rate that suits softmax
    alone diverges with λ = 1; the steps of Adam do not depend on the size of a gradient.
    """
    return mx.optimizer.Adam(rescale_grad=1 / batch_size, begin_num_update=begin_num_update)
