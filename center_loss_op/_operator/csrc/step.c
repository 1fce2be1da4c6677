/* Equations 2, 4 and 5 of the paper on MXNet's memory: what step.py, labels.py and turns.py do
   in Python. The arithmetic on rows is in rows.h. */
#include "step.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
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

enum { IGNORED = -1 }; /* the class of a sample that does not count */
/* `members` of a sample that moves no center, and of the second and later samples of a class. */
enum { ALONE = 0, FOLLOWS = -1 };
enum { LANES = 32 }; /* partial sums: two vectors of 16 floats, the widest there are */
enum { AHEAD = 4 };  /* how many samples ahead a center is fetched into the cache */

/* If the squares of all differences are finite, an update overflows only with an α above this. */
static const double LARGE = 1e12;

/* Of one sample. A class is a list of its samples, which begins at the first of them. */
typedef struct {
  int32_t class;   /* y_i, or IGNORED */
  int32_t members; /* n_j at the first sample of a class, FOLLOWS at the others, or ALONE */
  int32_t next;    /* the next sample of the class; −1 for none */
  int32_t last;    /* at the first sample: the last one */
} Sample;

struct Step {
  const Arguments *arguments;
  int samples, features, type, label_type;
  int ready;        /* whether the fields below belong to the last forward pass, */
  int pending;      /* and whether its backward pass moves the centers */
  int count;        /* M, the samples that count */
  double total;     /* Σ l_i */
  void *difference; /* x_i − c_{y_i}, (N, d) */
  void *losses;     /* l_i, (N,) */
  void *sum;        /* Σ of the class at hand, (d,) */
  Sample *at;       /* (N,) */
  int32_t *table;   /* a hash table of the first samples, 2^bits places; −1 if empty */
  int bits;
  const void *centers; /* if pending: the centers, */
  uint64_t began;      /* and how many moves of any centers came before the forward pass */
};

static void prefetch(const void *memory, size_t bytes) {
  for (size_t at = 0; at < bytes && at < 2048; at += 64)
    __builtin_prefetch((const char *)memory + at);
}

/* The first sample of the class of sample i: i itself, if no earlier one was added. */
static int first_of_class(Step *s, int i) {
  uint32_t mask = (uint32_t)(((uint64_t)1 << s->bits) - 1);
  uint32_t place = ((uint32_t)s->at[i].class * 2654435769u) >> (32 - s->bits);
  while (s->table[place] >= 0 && s->at[s->table[place]].class != s->at[i].class)
    place = (place + 1) & mask;
  if (s->table[place] < 0) s->table[place] = i;
  return s->table[place];
}

/* Whether all features that count are finite: a cheap test that looks at the losses only. It also
   fails if a square overflows, or if a center is not finite; then the features are looked at. */
static int all_are_finite(const Step *s) { return isfinite(s->total); }

static void group_add(Step *s, int i) {
  int first = first_of_class(s, i);
  s->at[i].next = -1;
  if (first == i) {
    s->at[i].members = 1;
  } else {
    s->at[i].members = FOLLOWS;
    ++s->at[first].members;
    s->at[s->at[first].last].next = i;
  }
  s->at[first].last = i;
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
/* Calls the function of the type of a step's features. */
#define CALL(name, s, ...) \
  ((s)->type == FLOAT32 ? name##_float((s), __VA_ARGS__) : name##_double((s), __VA_ARGS__))

/* A label as a double. That rounds an int64 only if it is far above all classes. */
static double label_at(const void *labels, int type, int i) {
  switch (type) {
    case FLOAT32: return ((const float *)labels)[i];
    case FLOAT64: return ((const double *)labels)[i];
    case INT32: return ((const int32_t *)labels)[i];
    default: return (double)((const int64_t *)labels)[i];
  }
}

/* Returns 0 at a bad label. */
static int read_labels(Step *s, const void *labels) {
  const Arguments *p = s->arguments;
  /* In the type in which NumPy compares labels with a Python float. */
  const double ignore = s->label_type == FLOAT32 ? (float)p->ignore_label : p->ignore_label;
  const int ignores = p->use_ignore && isfinite(ignore);
  s->count = s->samples;
  for (int i = 0; i < s->samples; ++i) {
    const double label = label_at(labels, s->label_type, i);
    if (ignores && label == ignore) {
      s->at[i].class = IGNORED;
      --s->count;
    } else {
      if (!(label >= 0 && label < p->num_class)) return 0;
      s->at[i].class = (int32_t)label;
      if (s->at[i].class != label) return 0;
    }
  }
  return 1;
}

/* Returns 0 at a bad label. */
static int read_batch(Step *s, const void *data, const void *label, const void *centers) {
  if (!read_labels(s, label)) return 0;
  CALL(differences_and_losses, s, data, centers);
  return 1;
}

/* MXNet may run two backward passes over the same centers at once, because they are an input of
   its operator. Here the second one waits. A step in Python claims its centers as well. */
typedef struct Busy {
  const void *centers;
  struct Busy *next;
} Busy;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of all that is below */
static pthread_cond_t released = PTHREAD_COND_INITIALIZER;
static Busy *busy;

static int is_busy(const void *centers) {
  for (const Busy *one = busy; one; one = one->next)
    if (one->centers == centers) return 1;
  return 0;
}

PUBLIC void center_loss_claim(Busy *mine, const void *centers) {
  pthread_mutex_lock(&lock);
  while (is_busy(centers)) pthread_cond_wait(&released, &lock);
  *mine = (Busy){centers, busy};
  busy = mine;
  pthread_mutex_unlock(&lock);
}

PUBLIC void center_loss_release(const Busy *mine) {
  pthread_mutex_lock(&lock);
  Busy **place = &busy;
  while (*place != mine) place = &(*place)->next;
  *place = mine->next;
  pthread_cond_broadcast(&released);
  pthread_mutex_unlock(&lock);
}

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void after_fork(void) { pthread_mutex_unlock(&lock); }

static void after_fork_in_child(void) {
  busy = NULL; /* the threads that had claimed centers do not exist in the child */
  pthread_mutex_unlock(&lock);
}

__attribute__((constructor)) static void handle_forks(void) {
  pthread_atfork(before_fork, after_fork, after_fork_in_child);
}

/* What lately happened to some centers, for two warnings. One count for all centers would not do:
   a loss that trains well would reset it for one whose centers stand still. Another loss may get
   the memory of centers that were freed; the arguments tell most of them apart. */
typedef struct {
  const void *centers;
  Arguments arguments;
  uint64_t moved;  /* the number of their last move, among the moves of any centers */
  int overtaken;   /* whether another move came between that one and its forward pass */
  int unfollowed;  /* training forwards in a row that no backward pass followed */
  int overlapping; /* moves in a row that were overtaken; such as overtake them do not count */
} History;

enum { KEPT = 64 }; /* those of the last so many centers */
static History histories[KEPT];
static unsigned newest;
static uint64_t moves; /* of any centers */

/* Called with the lock held. */
static History *history_of(const Step *s) {
  for (int i = 0; i < KEPT; ++i)
    if (histories[i].centers == s->centers &&
        arguments_equal(&histories[i].arguments, s->arguments))
      return &histories[i];
  History *oldest = &histories[newest++ % KEPT];
  *oldest = (History){.centers = s->centers, .arguments = *s->arguments};
  return oldest;
}

/* How many in a row are too many: as in step.py. */
enum { MANY = 10 };
static _Atomic(Warn) on_unfollowed, on_overlapping; /* log the warnings; NULL for none */

void step_warn(Warn unfollowed, Warn overlapping) {
  on_unfollowed = unfollowed;
  on_overlapping = overlapping;
}

/* Once there were MANY, the warning was given, and the count does not go back. */
static void reset(int *count) {
  if (*count < MANY) *count = 0;
}

static void note_forward(Step *s, const void *centers) {
  pthread_mutex_lock(&lock);
  s->centers = centers;
  s->began = moves;
  pthread_mutex_unlock(&lock);
}

static void note_unfollowed(const Step *s) {
  pthread_mutex_lock(&lock);
  Warn warn = ++history_of(s)->unfollowed == MANY ? on_unfollowed : NULL;
  pthread_mutex_unlock(&lock);
  if (warn) warn();
}

/* Called while the centers are claimed. Returns what to call afterwards. */
static Warn note_move(const Step *s) {
  Warn warn = NULL;
  pthread_mutex_lock(&lock);
  History *mine = history_of(s);
  const int overtaken = mine->moved > s->began;
  reset(&mine->unfollowed);
  if (overtaken && ++mine->overlapping == MANY) warn = on_overlapping;
  if (!overtaken && !mine->overtaken) reset(&mine->overlapping);
  mine->overtaken = overtaken;
  ++moves;
  for (int i = 0; i < KEPT; ++i)
    if (histories[i].centers == s->centers) histories[i].moved = moves;
  pthread_mutex_unlock(&lock);
  return warn;
}

/* Memory that begins a cache line; NULL if it is short. */
static void *lines(size_t count, size_t size) {
  void *memory;
  return posix_memalign(&memory, 64, count * size) ? NULL : memory;
}

Step *step_new(const Arguments *arguments, int samples, int features, int type, int label_type) {
  const size_t number = type == FLOAT32 ? sizeof(float) : sizeof(double), n = samples;
  int bits = 4;
  while (((uint64_t)1 << bits) < 2 * (uint64_t)samples) ++bits;
  Step *s = bits > 31 ? NULL : malloc(sizeof *s);
  if (!s) return NULL;
  *s = (Step){.arguments = arguments,
              .samples = samples,
              .features = features,
              .type = type,
              .label_type = label_type,
              .bits = bits,
              .difference = lines(n * features, number), /* N·d is at most MAX_ELEMENTS */
              .losses = lines(n, number),
              .sum = lines(features, number),
              .at = lines(n, sizeof(Sample)),
              .table = lines((size_t)1 << bits, sizeof(int32_t))};
  if (s->difference && s->losses && s->sum && s->at && s->table) return s;
  step_free(s);
  return NULL;
}

void step_free(Step *s) {
  if (s->pending) note_unfollowed(s);
  free(s->difference);
  free(s->losses);
  free(s->sum);
  free(s->at);
  free(s->table);
  free(s);
}

void step_forget(Step *s) { s->ready = s->pending = 0; }

int step_forward(Step *s, int is_train, int req, const void *data, const void *label, void *out,
                 const void *centers) {
  if (s->pending && is_train) note_unfollowed(s);
  step_forget(s);
  if (!read_batch(s, data, label, centers)) return 0;
  CALL(store_loss, s, req, out);
  s->ready = is_train != 0;
  s->pending = is_train && s->arguments->alpha != 0;
  if (s->pending) note_forward(s, centers);
  return 1;
}

int step_backward(Step *s, int req, const void *head_gradient, void *grad, const void *data,
                  const void *label, void *centers) {
  const int move = s->pending;
  Busy claim;
  Warn warn = NULL;
  s->pending = 0;
  if (req == REQ_NULL && !move) return 1;
  center_loss_claim(&claim, centers);
  if (move) warn = note_move(s);
  const int good = s->ready || read_batch(s, data, label, centers);
  if (good) CALL(gradient_and_update, s, req, head_gradient, grad, data, centers, move);
  center_loss_release(&claim);
  if (warn) warn();
  return good;
}
