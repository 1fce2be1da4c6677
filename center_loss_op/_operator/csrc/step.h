/* A step on the CPU, as in step.py: the forward and the backward pass, for float and double. */
#ifndef CENTER_LOSS_STEP_H
#define CENTER_LOSS_STEP_H

#include <stddef.h>
#include <stdint.h>

#include "arguments.h"

typedef struct Step Step;

/* A step for batches of N samples with d features; NULL if memory is short. The passes allocate
   nothing. */
Step *step_new(Arguments *arguments, int samples, int features, int type, int label_type);
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

/* A set of centers that a thread reads or moves. step_claim waits until no other thread has claimed
   the same centers. */
typedef struct Busy {
  const void *centers;
  struct Busy *next;
} Busy;
void step_claim(Busy *mine, const void *centers);
void step_release(const Busy *mine);

/* Called when `limit` training forwards in a row had no backward pass; and when `limit` updates in a
   row came after another update of the same centers since their forward pass. NULL for nothing. */
typedef void (*Warn)(void);
void step_on_unfollowed(Warn function, int limit);
void step_on_overlapping(Warn function, int limit);

/* Called around a fork. */
void step_lock(void);
void step_unlock(void);
void step_unlock_in_child(void);

#endif
