/* The text of a node's attributes, read; what params.py would refuse is left to it. */
#define _GNU_SOURCE  /* stpcpy */
#include "params.h"

#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* An imperative call makes its operator anew each time, from the same text as a rule. */
enum { KEPT = 64 };
static Params *kept[KEPT];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;   /* of `kept` and all references */

void params_lock(void) { pthread_mutex_lock(&lock); }
void params_unlock(void) { pthread_mutex_unlock(&lock); }

/* Attributes such as __ctx_group__ are MXNet's own and may stand on any node. */
static int of_mxnet(const char *key) { return !strncmp(key, "__", 2); }

/* A number as Python writes one. What else float() takes, or another locale, is Python's. */
static int number(const char *text, double *value) {
  char *end;
  if (!*text || text[strspn(text, "0123456789.eE+-")]) return 0;
  *value = strtod(text, &end);
  return !*end && isfinite(*value);
}

static int rate(const char *text, double *value) { return number(text, value) && *value >= 0; }

static int positive_int(const char *text, int *value) {
  char *end;
  if (*text < '0' || *text > '9' || strlen(text) > 10) return 0;
  long long n = strtoll(text, &end, 10);
  *value = (int)n;
  return !*end && n > 0 && n <= INT32_MAX;
}

/* The place of a text in a list of them that ends with NULL; -1 where it is none of them. */
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

/* 1 where all arguments are plain and right. */
static int parse(Params *p) {
  p->alpha = 0.5;
  p->scale = 1;
  p->ignore_label = -1;
  for (int i = 0; i < p->size; ++i) {
    const char *key = p->keys[i], *text = p->values[i];
    int plain = !strcmp(key, "num_class")       ? positive_int(text, &p->num_class)
                : !strcmp(key, "alpha")         ? rate(text, &p->alpha)
                : !strcmp(key, "scale")         ? rate(text, &p->scale)
                : !strcmp(key, "reduction")     ? reduction(text, &p->reduction)
                : !strcmp(key, "use_ignore")    ? flag(text, &p->use_ignore)
                : !strcmp(key, "ignore_label")  ? number(text, &p->ignore_label)
                : !strcmp(key, "need_top_grad") ? flag(text, &p->need_top_grad)
                : !strcmp(key, "scale_output")  ? flag(text, &p->scale_output)
                : !strcmp(key, "key")           ? !*text
                                                : !strcmp(key, "batchsize");
    if (!plain) return 0;
  }
  return p->num_class > 0;
}

/* Params in one piece of memory with a copy of the text. */
static Params *copied(int size, const char **keys, const char **values) {
  size_t bytes = sizeof(Params) + 2 * (size_t)size * sizeof(char *);
  for (int i = 0; i < size; ++i) bytes += strlen(keys[i]) + strlen(values[i]) + 2;
  Params *p = calloc(1, bytes);
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
  uint64_t hash = 14695981039346656037u;  /* FNV-1a */
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

static int same(const Params *p, int size, const char **keys, const char **values) {
  int seen = 0;
  for (int i = 0; i < size; ++i) {
    if (of_mxnet(keys[i])) continue;
    if (seen == p->size || strcmp(p->keys[seen], keys[i]) || strcmp(p->values[seen], values[i]))
      return 0;
    ++seen;
  }
  return seen == p->size;
}

/* With the lock held. */
static void drop(Params *params) {
  if (params && !--params->references) free(params);
}

Params *params_of(int size, const char **keys, const char **values) {
  uint64_t hash = hash_of(size, keys, values);
  Params **place = &kept[(hash ^ hash >> 32) % KEPT], *found = NULL;
  params_lock();
  if (*place && (*place)->hash == hash && same(*place, size, keys, values)) {
    found = *place;
    ++found->references;
  }
  params_unlock();
  if (found) return found;

  Params *made = copied(size, keys, values);
  if (!made) return NULL;
  if (!parse(made)) {
    free(made);
    return NULL;
  }
  made->hash = hash;
  made->references = 2;  /* the caller's, and that of `kept` */
  params_lock();
  drop(*place);
  *place = made;
  params_unlock();
  return made;
}

Params *params_again(Params *params) {
  params_lock();
  ++params->references;
  params_unlock();
  return params;
}

void params_release(Params *params) {
  params_lock();
  drop(params);
  params_unlock();
}
