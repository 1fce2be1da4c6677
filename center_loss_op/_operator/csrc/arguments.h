/* The arguments of the operator, with the fields of Arguments in arguments.py. */
#ifndef CENTER_LOSS_ARGUMENTS_H
#define CENTER_LOSS_ARGUMENTS_H

#include <stdatomic.h>
#include <stdint.h>

enum { WARNED = -1 }; /* `unfollowed` or `overlapping` once the warning was given */
enum Reduction { MEAN, SUM, NONE };

typedef struct {
  int num_class;
  double alpha, scale, ignore_label;
  enum Reduction reduction;
  int use_ignore, need_top_grad, scale_output;
  atomic_int unfollowed; /* training forwards in a row that no backward pass followed, or WARNED */
  atomic_int overlapping; /* updates in a row that came after another one, or WARNED */
  /* The text that the arguments were read from, for Python's operator. */
  int size;
  const char **keys, **values;
  uint64_t hash;
  int references;
} Arguments;

/* The arguments in the text of a node's attributes. NULL if Python has to read them: they are wrong
   or rare (a `key`), or memory is short. The same text usually gives the same Arguments. Each call
   is matched by one of arguments_release. */
Arguments *arguments_of(int size, const char **keys, const char **values);

/* One more reference, and one less. */
Arguments *arguments_retain(Arguments *arguments);
void arguments_release(Arguments *arguments);

/* Called around a fork. */
void arguments_lock(void);
void arguments_unlock(void);

#endif
