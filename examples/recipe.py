"""How the examples learn: optimizer and learning rate, for both of them."""
import mxnet as mx


def schedule(lr, updates):
    """The learning rate: a short warm-up, then down to 0 along a cosine."""
    return mx.lr_scheduler.CosineScheduler(updates, base_lr=lr, warmup_steps=updates // 20,
                                           warmup_begin_lr=lr / 20)


def optimizer(batch_size, begin_num_update=0):
    """SGD with momentum and weight decay; the gradients are sums over `batch_size` samples."""
    return mx.optimizer.SGD(momentum=0.9, wd=5e-4, rescale_grad=1 / batch_size,
                            begin_num_update=begin_num_update)
