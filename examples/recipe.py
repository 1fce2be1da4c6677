"""How the examples learn: optimizer and learning rate, for both of them."""
import mxnet as mx

_WARMUP = 50


def schedule(lr, updates):
    """The learning rate of update 1 to `updates`: a warm-up, then down to 0 along a cosine.

    Without the warm-up the first steps can throw the features so far out that none comes back.
    """
    return mx.lr_scheduler.CosineScheduler(updates, base_lr=lr, warmup_begin_lr=lr / _WARMUP,
                                           warmup_steps=min(_WARMUP, updates // 2))


def optimizer(batch_size, begin_num_update=0):
    """SGD with momentum and weight decay; the gradients are sums over `batch_size` samples."""
    return mx.optimizer.SGD(momentum=0.9, wd=5e-4, rescale_grad=1 / batch_size,
                            begin_num_update=begin_num_update)
