/* Reads the arguments from the text of a node's attributes. What arguments.py would refuse, and
   whatever is written unusually, is left to Python. */
#include "arguments.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* A finite number as Python writes it. Anything else that float() accepts is left to Python, as is
   a number that strtod() does not read to its end, because of the locale. */
static int number(const char *text, double *value) {
  char *end;
  if (!*text || text[strspn(text, "0123456789.eE+-")]) return 0;
  *value = strtod(text, &end);
  return !*end && isfinite(*value);
}

static int non_negative(const char *text, double *value) {
  return number(text, value) && *value >= 0;
}

static int positive_int(const char *text, int *value) {
  char *end;
  if (*text < '0' || *text > '9' || strlen(text) > 10) return 0;
  long long n = strtoll(text, &end, 10);
  *value = (int)n;
  return !*end && n > 0 && n <= INT32_MAX;
}

/* The position of a text in a list that ends with NULL; -1 if it is not in the list. */
static int choice(const char *text, const char *const *texts) {
  for (int i = 0; texts[i]; ++i)
    if (!strcmp(text, texts[i])) return i;
  return -1;
}

static int flag(const char *text, int *value) {
  static const char *const texts[] = {"False", "false", "0", "True", "true", "1", NULL};
  int place = choice(text, texts);
  *value = place >= 3;
  return place >= 0;
}

static int reduction(const char *text, enum Reduction *value) {
  static const char *const texts[] = {"mean", "sum", "none", NULL};
  int place = choice(text, texts);
  *value = (enum Reduction)place;
  return place >= 0;
}

/* Returns 1 if C can use the argument. */
static int read_one(Arguments *p, const char *key, const char *text) {
#define READ(type, name, read, initial) \
  if (!strcmp(key, #name)) return read(text, &p->name);
  ARGUMENTS(READ)
#undef READ
  if (!strcmp(key, "key")) return !*text;
  /* Attributes such as __ctx_group__ are MXNet's own and may stand on any node. */
  return !strcmp(key, "batchsize") || !strncmp(key, "__", 2);
}

int arguments_read(Arguments *p, int size, const char **keys, const char **values) {
#define DEFAULT(type, name, read, initial) .name = initial,
  *p = (Arguments){ARGUMENTS(DEFAULT)};
#undef DEFAULT
  for (int i = 0; i < size; ++i)
    if (!read_one(p, keys[i], values[i])) return 0;
  return p->num_class > 0;
}

int arguments_equal(const Arguments *one, const Arguments *other) {
#define DIFFERS(type, name, read, initial) \
  if (one->name != other->name) return 0;
  ARGUMENTS(DIFFERS)
#undef DIFFERS
  return 1;
}
