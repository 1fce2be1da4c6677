/* A step on the CPU, as in step.py: the forward and the backward pass, for float and double. */
#ifndef CENTER_LOSS_STEP_H
#define CENTER_LOSS_STEP_H

#include "arguments.h"

/* A function that native.py calls. */
#define PUBLIC __attribute__((visibility("default")))

typedef struct Step Step;

/* A step for batches of N samples with d features; NULL if memory is short. The passes allocate
   nothing. The arguments must live as long as the step. */
Step *step_new(const Arguments *arguments, int samples, int features, int type, int label_type);
void step_free(Step *step);

/* Writes the loss, (1,) or (N,), to `out` as `req` says; with `is_train`, keeps what the backward
   pass needs. Returns 0, with nothing written, if a label is bad. */
int step_forward(Step *step, int is_train, int req, const void *data, const void *label, void *out,
                 const void *centers);

/* Writes the gradient, (N, d), to `grad` as `req` says and, once per training forward, moves the
   centers, (C, d). `head_gradient` is the gradient of the output, (1,) or (N,), or NULL for 1.
   Returns 0, with nothing written, if a label is bad. */
int step_backward(Step *step, int req, const void *head_gradient, void *grad, const void *data,
                  const void *label, void *centers);

/* Forgets the last forward pass: after one that failed, or that Python computed. */
void step_forget(Step *step);

/* What to call, once, after many training forward passes in a row that no backward pass followed,
   and after many in a row that overlapped; NULL for nothing. */
typedef void (*Warn)(void);
void step_warn(Warn unfollowed, Warn overlapping);

#endif
