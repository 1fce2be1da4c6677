/* The arguments of the operator, as params.py has them. */
#ifndef CENTER_LOSS_PARAMS_H
#define CENTER_LOSS_PARAMS_H

#include <stdatomic.h>
#include <stdint.h>

enum { SAID = -1 };
enum Reduction { MEAN, SUM, NONE };

typedef struct {
  int num_class;
  double alpha, scale, ignore_label;
  enum Reduction reduction;
  int use_ignore, need_top_grad, scale_output;
  atomic_int unfollowed;   /* training forwards in a row that no backward followed, or SAID */
  /* The text that all this was made from, for Python's operator. */
  int size;
  const char **keys, **values;
  uint64_t hash;
  int references;
} Params;

/* The arguments in the text of a node's attributes; NULL where Python has to look at them, for
   they are wrong, need it, or memory is short. The same text gives the same Params, for as long
   as it is among those used last. */
Params *params_of(int size, const char **keys, const char **values);

/* The same once more: each one is given back with params_release. */
Params *params_again(Params *params);
void params_release(Params *params);

/* Around a fork. */
void params_lock(void);
void params_unlock(void);

#endif
