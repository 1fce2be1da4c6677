/* Reads the arguments from the text of a node's attributes. What arguments.py would refuse, and
   whatever is written unusually, is left to Python. */
#define _GNU_SOURCE /* stpcpy */
#include "arguments.h"

#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* The arguments read last, by the hash of their text: an imperative call makes a new operator each
   time, usually with the same text. */
enum { KEPT = 64 };
static Arguments *kept[KEPT];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of `kept` and all references */

void arguments_lock(void) { pthread_mutex_lock(&lock); }
void arguments_unlock(void) { pthread_mutex_unlock(&lock); }

/* Attributes such as __ctx_group__ are MXNet's own and may stand on any node. */
static int of_mxnet(const char *key) { return !strncmp(key, "__", 2); }

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

/* Returns 1 if C can use all arguments. One line per field of Arguments in arguments.py, written by
   hand: test_arguments.py fails if one is missing. */
static int parse(Arguments *p) {
  p->alpha = 0.5;
  p->scale = 1;
  p->ignore_label = -1;
  for (int i = 0; i < p->size; ++i) {
    const char *key = p->keys[i], *text = p->values[i];
    int usable = !strcmp(key, "num_class")       ? positive_int(text, &p->num_class)
                 : !strcmp(key, "alpha")         ? non_negative(text, &p->alpha)
                 : !strcmp(key, "scale")         ? non_negative(text, &p->scale)
                 : !strcmp(key, "reduction")     ? reduction(text, &p->reduction)
                 : !strcmp(key, "use_ignore")    ? flag(text, &p->use_ignore)
                 : !strcmp(key, "ignore_label")  ? number(text, &p->ignore_label)
                 : !strcmp(key, "need_top_grad") ? flag(text, &p->need_top_grad)
                 : !strcmp(key, "scale_output")  ? flag(text, &p->scale_output)
                 : !strcmp(key, "key")           ? !*text
                                                 : !strcmp(key, "batchsize");
    if (!usable) return 0;
  }
  return p->num_class > 0;
}

/* Arguments and a copy of their text, in one allocation. */
static Arguments *copied(int size, const char **keys, const char **values) {
  size_t bytes = sizeof(Arguments) + 2 * (size_t)size * sizeof(char *);
  for (int i = 0; i < size; ++i) bytes += strlen(keys[i]) + strlen(values[i]) + 2;
  Arguments *p = calloc(1, bytes);
  if (!p) return NULL;
  p->keys = (const char **)(p + 1);
  p->values = p->keys + size;
  char *text = (char *)(p->values + size);
  for (int i = 0; i < size; ++i) {
    if (of_mxnet(keys[i])) continue;
    p->keys[p->size] = text;
    text = stpcpy(text, keys[i]) + 1;
    p->values[p->size++] = text;
    text = stpcpy(text, values[i]) + 1;
  }
  return p;
}

static uint64_t hash_of(int size, const char **keys, const char **values) {
  uint64_t hash = 14695981039346656037u; /* FNV-1a */
  for (int i = 0; i < size; ++i) {
    if (of_mxnet(keys[i])) continue;
    for (int part = 0; part < 2; ++part) {
      const char *text = part ? values[i] : keys[i];
      do hash = (hash ^ (unsigned char)*text) * 1099511628211u;
      while (*text++);
    }
  }
  return hash;
}

static int same(const Arguments *p, int size, const char **keys, const char **values) {
  int seen = 0;
  for (int i = 0; i < size; ++i) {
    if (of_mxnet(keys[i])) continue;
    if (seen == p->size || strcmp(p->keys[seen], keys[i]) || strcmp(p->values[seen], values[i]))
      return 0;
    ++seen;
  }
  return seen == p->size;
}

/* Called with the lock held. */
static void drop(Arguments *arguments) {
  if (arguments && !--arguments->references) free(arguments);
}

Arguments *arguments_of(int size, const char **keys, const char **values) {
  uint64_t hash = hash_of(size, keys, values);
  Arguments **place = &kept[(hash ^ hash >> 32) % KEPT], *found = NULL;
  arguments_lock();
  if (*place && (*place)->hash == hash && same(*place, size, keys, values)) {
    found = *place;
    ++found->references;
  }
  arguments_unlock();
  if (found) return found;

  Arguments *made = copied(size, keys, values);
  if (!made) return NULL;
  if (!parse(made)) {
    free(made);
    return NULL;
  }
  made->hash = hash;
  made->references = 2; /* the caller's, and that in `kept` */
  arguments_lock();
  drop(*place);
  *place = made;
  arguments_unlock();
  return made;
}

Arguments *arguments_retain(Arguments *arguments) {
  arguments_lock();
  ++arguments->references;
  arguments_unlock();
  return arguments;
}

void arguments_release(Arguments *arguments) {
  arguments_lock();
  drop(arguments);
  arguments_unlock();
}
