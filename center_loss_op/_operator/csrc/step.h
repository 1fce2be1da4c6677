/* A step on the CPU, as step.py has it: the passes, for features of float or double. */
#ifndef CENTER_LOSS_STEP_H
#define CENTER_LOSS_STEP_H

#include <stddef.h>
#include <stdint.h>

#include "params.h"

typedef struct Step Step;

/* Batches of N samples with d features. NULL where memory is short. Nothing is allocated after
   this. */
Step *step_new(Params *params, int samples, int size, int type, int label_type);
void step_free(Step *step);

/* Write the loss, (1,) or (N,), to `out` as `req` says; with `is_train`, keep what the backward
   pass needs. Returns 0 before anything is written where a label is bad. */
int step_forward(Step *step, int is_train, int req, const void *data, const void *label, void *out,
                 const void *centers);

/* Write the gradient to `grad` as `req` says and, once a training forward, move the centers. `head`
   is the gradient of the output, or NULL for 1. Returns 0 before anything is written where a label
   is bad. */
int step_backward(Step *step, int req, const void *head, void *grad, const void *data,
                  const void *label, void *centers);

/* After a forward pass that somebody else computed, or that failed. */
void step_forget(Step *step);

/* A set of centers that somebody reads or moves right now. step_claim waits until nobody else does,
   of those who claim them, too. */
typedef struct Busy {
  const void *centers;
  struct Busy *next;
} Busy;
void step_claim(Busy *mine, const void *centers);
void step_release(const Busy *mine);

/* Called when training forwards that no backward pass follows have become too many; or NULL. */
typedef void (*Unfollowed)(void);
void step_on_unfollowed(Unfollowed function, int limit);

/* Around a fork. */
void step_lock(void);
void step_unlock(void);
void step_unlock_in_child(void);

#endif
