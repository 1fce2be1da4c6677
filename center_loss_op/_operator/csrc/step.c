/* Equations 2, 4 and 5 of the paper on MXNet's memory: what step.py, labels.py and host.py do in
   Python. The arithmetic on rows is in rows.h. */
#define _GNU_SOURCE /* posix_memalign */
#include "step.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "mxnet.h"

/* A function marked CLONES is compiled for several processors; the loader chooses among them. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(CENTER_LOSS_ONE_PROCESSOR)
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONES
#endif

/* AddressSanitizer reports any access to the gaps between the parts of a step's memory. */
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
enum { GAP = 64 };
#else
#define ASAN_POISON_MEMORY_REGION(start, bytes) ((void)0)
enum { GAP = 0 };
#endif

enum { IGNORED = -1 }; /* the class of a sample that does not count */
/* `members` of a sample that moves no center, and of the second and later samples of a class. */
enum { ALONE = 0, FOLLOWS = -1 };
enum { LANES = 32 }; /* partial sums: two vectors of 16 floats, the widest there are */
enum { AHEAD = 4 };  /* how many samples ahead a center is fetched into the cache */

/* If the squares of all differences are finite, an update overflows only with an α above this. */
static const double LARGE = 1e12;

struct Step {
  Arguments *arguments;
  int samples, features, type, label_type;
  int ready;        /* whether the fields below belong to the last forward pass, */
  int pending;      /* and whether its backward pass moves the centers */
  int count;        /* M, the samples that count */
  double total;     /* Σ l_i */
  void *difference; /* x_i − c_{y_i}, (N, d) */
  void *losses;     /* l_i, (N,) */
  int32_t *classes; /* y_i, or IGNORED */
  /* The samples of each class: n_j at the first of them, and where the next one is. */
  int32_t *members, *next, *last;
  int32_t *table; /* a hash table of the first samples, 2^bits places; −1 if empty */
  int bits;
  void *sum; /* Σ of the class at hand, (d,) */
  Busy busy;
  /* If pending: the centers, whether another step has moved them since, and the list `waiting`. */
  const void *centers;
  int overtaken;
  Step *before, *after;
};

static void prefetch(const void *memory, size_t bytes) {
  for (size_t at = 0; at < bytes && at < 2048; at += 64)
    __builtin_prefetch((const char *)memory + at);
}

/* The first sample of the class of sample i: i itself, if no earlier one was added. */
static int first_of_class(Step *s, int i) {
  uint32_t mask = (uint32_t)(((uint64_t)1 << s->bits) - 1);
  uint32_t place = ((uint32_t)s->classes[i] * 2654435769u) >> (32 - s->bits);
  while (s->table[place] >= 0 && s->classes[s->table[place]] != s->classes[i])
    place = (place + 1) & mask;
  if (s->table[place] < 0) s->table[place] = i;
  return s->table[place];
}

/* Whether all features that count are finite: a cheap test that looks at the losses only. It also
   fails if a square overflows, or if a center is not finite; then the features are looked at. */
static int all_are_finite(const Step *s) { return isfinite(s->total); }

/* λ · r: the gradient as a multiple of the difference, without the head gradient. */
static double gradient_scale(const Step *s) {
  const int mean = s->arguments->reduction == MEAN && s->count > 1;
  return mean ? s->arguments->scale / s->count : s->arguments->scale;
}

static void group_begin(Step *s) { memset(s->table, -1, sizeof(int32_t) << s->bits); }

static void group_add(Step *s, int i) {
  int first = first_of_class(s, i);
  s->next[i] = -1;
  if (first == i) {
    s->members[i] = 1;
  } else {
    s->members[i] = FOLLOWS;
    ++s->members[first];
    s->next[s->last[first]] = i;
  }
  s->last[first] = i;
}

#define T float
#define NAME(name) name##_float
#include "rows.h"
#undef T
#undef NAME
#define T double
#define NAME(name) name##_double
#include "rows.h"
#undef T
#undef NAME

/* Reads labels of type LABEL; returns 0 at a bad one. They are compared with the classes as type
   WIDE, which holds all values of LABEL, and with the label to ignore as type IGNORE, as NumPy
   compares them with a Python float. */
#define READ(LABEL, WIDE, IGNORE)                            \
  {                                                          \
    const LABEL *labels = label;                             \
    const IGNORE ignore = (IGNORE)p->ignore_label;           \
    const int ignores = p->use_ignore && isfinite(ignore);   \
    for (int i = 0; i < s->samples; ++i) {                   \
      const WIDE value = labels[i];                          \
      if (ignores && (IGNORE)labels[i] == ignore) {          \
        s->classes[i] = IGNORED;                             \
        --s->count;                                          \
      } else {                                               \
        if (!(value >= 0 && value < p->num_class)) return 0; \
        s->classes[i] = (int32_t)value;                      \
        if (s->classes[i] != value) return 0;                \
      }                                                      \
    }                                                        \
    return 1;                                                \
  }

static int read_labels(Step *s, const void *label) {
  const Arguments *p = s->arguments;
  s->count = s->samples;
  switch (s->label_type) {
    case FLOAT32: READ(float, double, float)
    case FLOAT64: READ(double, double, double)
    case INT32: READ(int32_t, int64_t, double)
    case INT64: READ(int64_t, int64_t, double)
  }
  return 0;
}

/* Checks the labels of a batch (returns 0 at a bad one), then computes differences and losses. */
static int read_batch(Step *s, const void *data, const void *label, const void *centers) {
  if (!read_labels(s, label)) return 0;
  if (s->type == FLOAT32) differences_and_losses_float(s, data, centers);
  else differences_and_losses_double(s, data, centers);
  return 1;
}

/* The centers are an input of MXNet's backward operator, not an output, so MXNet may run two
   backward passes over the same centers at once. Here the second one waits; passes over other
   centers do not. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t released = PTHREAD_COND_INITIALIZER;
static Busy *busy;

static int is_busy(const void *centers) {
  for (const Busy *one = busy; one; one = one->next)
    if (one->centers == centers) return 1;
  return 0;
}

void step_claim(Busy *mine, const void *centers) {
  pthread_mutex_lock(&lock);
  while (is_busy(centers)) pthread_cond_wait(&released, &lock);
  *mine = (Busy){centers, busy};
  busy = mine;
  pthread_mutex_unlock(&lock);
}

void step_release(const Busy *mine) {
  pthread_mutex_lock(&lock);
  Busy **place = &busy;
  while (*place != mine) place = &(*place)->next;
  *place = mine->next;
  pthread_cond_broadcast(&released);
  pthread_mutex_unlock(&lock);
}

void step_lock(void) { pthread_mutex_lock(&lock); }
void step_unlock(void) { pthread_mutex_unlock(&lock); }

void step_unlock_in_child(void) {
  busy = NULL; /* the threads that had claimed centers do not exist in the child */
  pthread_mutex_unlock(&lock);
}

/* The steps whose backward pass is going to move centers, as in overlap.py; with the lock held. */
static Step *waiting;

static void start_waiting(Step *s, const void *centers) {
  pthread_mutex_lock(&lock);
  s->centers = centers;
  s->overtaken = 0;
  s->before = NULL;
  s->after = waiting;
  if (waiting) waiting->before = s;
  waiting = s;
  pthread_mutex_unlock(&lock);
}

static void unlink_waiting(Step *s) {
  if (s->after) s->after->before = s->before;
  if (s->before) s->before->after = s->after;
  else waiting = s->after;
}

/* Returns whether other steps wait to move the centers that this one moves now. */
static int overtakes(Step *s) {
  int others = 0;
  pthread_mutex_lock(&lock);
  unlink_waiting(s);
  for (Step *other = waiting; other; other = other->after)
    if (other->centers == s->centers) others = other->overtaken = 1;
  pthread_mutex_unlock(&lock);
  return others;
}

/* What to call when something has happened `limit` times in a row. */
typedef struct {
  _Atomic(Warn) function;
  atomic_int limit;
} InARow;
static InARow unfollowed, overlapping;

void step_on_unfollowed(Warn function, int limit) {
  unfollowed.limit = limit;
  unfollowed.function = function;
}

void step_on_overlapping(Warn function, int limit) {
  overlapping.limit = limit;
  overlapping.function = function;
}

static void count_one(InARow *what, atomic_int *counter) {
  Warn function = what->function;
  if (*counter != WARNED && ++*counter == what->limit) {
    *counter = WARNED;
    if (function) function();
  }
}

static void reset(atomic_int *counter) {
  if (*counter != WARNED) *counter = 0;
}

Step *step_new(Arguments *arguments, int samples, int features, int type, int label_type) {
  int bits = 4;
  while (((uint64_t)1 << bits) < 2 * (uint64_t)samples) ++bits;
  if (bits > 31) return NULL;
  const size_t number = type == FLOAT32 ? sizeof(float) : sizeof(double);
  /* One allocation, each part on a cache line of its own. N·d is at most MAX_ELEMENTS, so no size
     overflows 64 bits. */
  const size_t sizes[] = {sizeof(Step),
                          (size_t)samples * features * number,
                          samples * number,
                          features * number,
                          samples * sizeof(int32_t),
                          samples * sizeof(int32_t),
                          samples * sizeof(int32_t),
                          samples * sizeof(int32_t),
                          sizeof(int32_t) << bits};
  enum { PARTS = sizeof sizes / sizeof *sizes };
  size_t starts[PARTS], bytes = 0;
  for (int i = 0; i < PARTS; ++i) {
    starts[i] = bytes;
    bytes += ((sizes[i] + 63) & ~(size_t)63) + GAP;
  }
  void *memory;
  if (posix_memalign(&memory, 64, bytes)) return NULL;
  char *start = memory;
  for (int i = 0; i < PARTS; ++i)
    ASAN_POISON_MEMORY_REGION(start + starts[i] + sizes[i],
                              (i + 1 < PARTS ? starts[i + 1] : bytes) - starts[i] - sizes[i]);
  Step *s = memory;
  *s = (Step){.arguments = arguments_retain(arguments),
              .samples = samples,
              .features = features,
              .type = type,
              .label_type = label_type,
              .bits = bits,
              .difference = start + starts[1],
              .losses = start + starts[2],
              .sum = start + starts[3],
              .classes = (void *)(start + starts[4]),
              .members = (void *)(start + starts[5]),
              .next = (void *)(start + starts[6]),
              .last = (void *)(start + starts[7]),
              .table = (void *)(start + starts[8])};
  return s;
}

void step_free(Step *s) {
  if (s->pending) count_one(&unfollowed, &s->arguments->unfollowed);
  step_forget(s);
  arguments_release(s->arguments);
  free(s);
}

void step_forget(Step *s) {
  if (s->pending) {
    pthread_mutex_lock(&lock);
    unlink_waiting(s);
    pthread_mutex_unlock(&lock);
  }
  s->ready = s->pending = 0;
}

int step_forward(Step *s, int is_train, int req, const void *data, const void *label, void *out,
                 const void *centers) {
  if (s->pending && is_train) count_one(&unfollowed, &s->arguments->unfollowed);
  step_forget(s);
  if (!read_batch(s, data, label, centers)) return 0;
  if (s->type == FLOAT32) store_loss_float(s, req, out);
  else store_loss_double(s, req, out);
  s->ready = is_train != 0;
  s->pending = is_train && s->arguments->alpha != 0;
  if (s->pending) start_waiting(s, centers);
  return 1;
}

int step_backward(Step *s, int req, const void *head_gradient, void *grad, const void *data,
                  const void *label, void *centers) {
  const int move = s->pending;
  int good = 1, others = 0;
  s->pending = 0;
  if (req == REQ_NULL && !move) return 1;
  step_claim(&s->busy, centers);
  if (move) others = overtakes(s);
  if (!s->ready) good = read_batch(s, data, label, centers);
  if (good && s->type == FLOAT32) {
    gradient_and_update_float(s, req, head_gradient, grad, data, centers, move);
  } else if (good) {
    gradient_and_update_double(s, req, head_gradient, grad, data, centers, move);
  }
  step_release(&s->busy);
  if (move) {
    reset(&s->arguments->unfollowed);
    if (s->overtaken) count_one(&overlapping, &s->arguments->overlapping);
    else if (!others) reset(&s->arguments->overlapping);
  }
  return good;
}
