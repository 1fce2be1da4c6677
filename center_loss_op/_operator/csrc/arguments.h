/* The arguments of the operator, as arguments.py describes them. */
#ifndef CENTER_LOSS_ARGUMENTS_H
#define CENTER_LOSS_ARGUMENTS_H

enum Reduction { MEAN, SUM, NONE };

/* Everything that C knows of an argument: type, name, the function in arguments.c that reads and
   checks it, default. Those that only Python uses are in read_one(). */
#define ARGUMENTS(X)                            \
  X(int, num_class, positive_int, 0)            \
  X(double, alpha, non_negative, 0.5)           \
  X(double, scale, non_negative, 1)             \
  X(enum Reduction, reduction, reduction, MEAN) \
  X(int, use_ignore, flag, 0)                   \
  X(double, ignore_label, number, -1)           \
  X(int, need_top_grad, flag, 0)                \
  X(int, scale_output, flag, 0)

#define MEMBER(type, name, read, initial) type name;
typedef struct {
  ARGUMENTS(MEMBER)
} Arguments;
#undef MEMBER

/* Reads the text of a node's attributes. Returns 0 if Python has to read them: they are wrong,
   unusual or rare (a `key`). */
int arguments_read(Arguments *arguments, int size, const char **keys, const char **values);

int arguments_equal(const Arguments *one, const Arguments *other);

#endif
