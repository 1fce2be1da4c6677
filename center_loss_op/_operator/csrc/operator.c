/* The operator's callbacks for MXNet, as in operator.py, for the usual case. Rare cases (float16,
   other types of labels, a key, a GPU, a shape that is not fully known) and errors (an argument, a
   shape, a type) go to Python's callbacks. */
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "mxnet.h"
#include "arguments.h"
#include "step.h"

static int (*get_data)(void *array, void **memory);
static int (*free_array)(void *array);
static Creator python;     /* makes Python's callbacks for a node */
static atomic_int enabled; /* whether new nodes run here, or in Python */

typedef void (*Use)(void);
typedef void (*Complain)(const void *labels, int type, int samples, int num_class, int use_ignore,
                         double ignore_label);
/* Functions of Python, called when a node is made, and to report a bad label; NULL at the end of
   the process. */
static _Atomic(Use) on_use;
static _Atomic(Complain) on_bad_label;

/* -- a node of a graph (a Prop) */

typedef struct {
  Arguments arguments;
  _Atomic(CallbackList *) python; /* Python's callbacks for the node, made when they are needed, */
  int size;                       /* from this text */
  const char **keys, **values;
  atomic_int references; /* one of MXNet, one of each operator */
  void *contexts[PROP_CALLBACKS];
} Prop;

static int nothing(void *context) {
  (void)context;
  return 1;
}

/* Calls Python's creator. If that fails, MXNet still calls the list's first function. */
static int create_in_python(const char *op_type, int size, const char **keys, const char **values,
                            CallbackList *list) {
  static Callback callbacks[] = {(Callback)nothing};
  static void *contexts[] = {NULL};
  *list = (CallbackList){1, callbacks, contexts};
  return python(op_type, size, keys, values, list) && list->callbacks != callbacks;
}

static void delete_in_python(CallbackList *list) {
  if (list) ((Delete)list->callbacks[0])(list->contexts[0]);
  free(list);
}

/* Python's callbacks for this node; NULL if they cannot be made. */
static CallbackList *python_of(Prop *prop) {
  CallbackList *list = atomic_load(&prop->python), *none = NULL;
  if (list) return list;
  list = malloc(sizeof *list);
  if (!list || !create_in_python("centerloss", prop->size, prop->keys, prop->values, list)) {
    free(list);
    return NULL;
  }
  if (atomic_compare_exchange_strong(&prop->python, &none, list)) return list;
  delete_in_python(list); /* another thread made them first */
  return none;
}

static char *INPUT_NAMES[] = {"data", "label", NULL}, *OUTPUT_NAMES[] = {"output", NULL},
            *STATE_NAMES[] = {"center_bias", NULL};

/* A node with a copy of its text, in one allocation; NULL if Python has to make it, or memory is
   short. */
static Prop *prop_new(int size, const char **keys, const char **values) {
  Arguments arguments;
  if (!arguments_read(&arguments, size, keys, values)) return NULL;
  size_t bytes = sizeof(Prop) + 2 * (size_t)size * sizeof(char *);
  for (int i = 0; i < size; ++i) bytes += strlen(keys[i]) + strlen(values[i]) + 2;
  Prop *prop = calloc(1, bytes);
  if (!prop) return NULL;
  prop->arguments = arguments;
  prop->size = size;
  prop->keys = (const char **)(prop + 1);
  prop->values = prop->keys + size;
  char *text = (char *)(prop->values + size);
  for (int i = 0; i < size; ++i) {
    prop->keys[i] = text;
    text = stpcpy(text, keys[i]) + 1;
    prop->values[i] = text;
    text = stpcpy(text, values[i]) + 1;
  }
  prop->references = 1;
  for (int i = 0; i < PROP_CALLBACKS; ++i) prop->contexts[i] = prop;
  prop->contexts[LIST_ARGUMENTS] = INPUT_NAMES;
  prop->contexts[LIST_OUTPUTS] = OUTPUT_NAMES;
  prop->contexts[LIST_STATES] = STATE_NAMES;
  return prop;
}

static int prop_release(void *context) {
  Prop *prop = context;
  if (atomic_fetch_sub(&prop->references, 1) > 1) return 1;
  delete_in_python(atomic_load(&prop->python));
  free(prop);
  return 1;
}

/* Lists the names that are its context. */
static int list_names(char ***names, void *context) {
  *names = context;
  return 1;
}

/* Whether labels of this shape fit the samples: (N,) or (N, 1). */
static int label_fits(int dims, const int *shape, int samples) {
  return (dims == 1 || (dims == 2 && shape[1] == 1)) && shape[0] == samples;
}

/* Gives the shapes of data, label, output and centers. MXNet copies them when this returns. */
static int infer_shape(int size, int *dims, int **shapes, void *context) {
  static _Thread_local int inferred[4][2];
  const Prop *prop = context;
  const int known = dims[0] == 2 && shapes[0][0] > 0 && shapes[0][1] > 0;
  if (!known || (dims[1] > 0 && !label_fits(dims[1], shapes[1], shapes[0][0])) ||
      (int64_t)prop->arguments.num_class * shapes[0][1] > MAX_ELEMENTS) {
    CallbackList *list = python_of(context);
    return list && ((InferShape)list->callbacks[INFER_SHAPE])(size, dims, shapes,
                                                              list->contexts[INFER_SHAPE]);
  }
  const int samples = shapes[0][0], features = shapes[0][1];
  const int all[4][2] = {{samples, features},
                         {samples, 1},
                         {prop->arguments.reduction == NONE ? samples : 1, 0},
                         {prop->arguments.num_class, features}};
  const int all_dims[4] = {2, dims[1] > 0 ? dims[1] : 1, 1, 2};
  memcpy(inferred, all, sizeof all);
  memcpy(dims, all_dims, sizeof all_dims);
  for (int i = 0; i < 4; ++i) shapes[i] = inferred[i];
  return 1;
}

static int is_feature_type(int type) { return type == FLOAT32 || type == FLOAT64; }

/* How many bytes a label of this type has; 0 if only Python knows the type. */
static size_t label_size(int type) {
  if (type == FLOAT32 || type == INT32) return 4;
  return type == FLOAT64 || type == INT64 ? 8 : 0;
}

static int infer_type(int size, int *types, void *context) {
  const Prop *prop = context;
  const int label = types[1] < 0 && types[0] == FLOAT32 ? FLOAT32 : types[1];
  /* float32 holds all whole numbers up to 2^24. */
  const int tells_apart = label != FLOAT32 || prop->arguments.num_class <= (1 << 24) + 1;
  if (!is_feature_type(types[0]) || !label_size(label) || !tells_apart) {
    CallbackList *list = python_of(context);
    return list &&
           ((InferType)list->callbacks[INFER_TYPE])(size, types, list->contexts[INFER_TYPE]);
  }
  types[1] = label;
  types[2] = types[3] = types[0];
  return 1;
}

/* Lists the arrays that the backward pass reads. MXNet copies the list when this returns. */
static int dependencies(const int *head_gradients, const int *inputs, const int *outputs, int *size,
                        int **wanted, void *context) {
  static _Thread_local int all[3];
  const Prop *prop = context;
  (void)outputs;
  *size = 0;
  if (prop->arguments.need_top_grad) all[(*size)++] = head_gradients[0];
  all[(*size)++] = inputs[0];
  all[(*size)++] = inputs[1];
  *wanted = all;
  return 1;
}

/* -- an operator: a node for one set of shapes and types */

typedef struct {
  Step *step;
  Prop *prop;
  int samples, label_type;
  void *contexts[OPERATOR_CALLBACKS];
} Operator;

static void free_arrays(int size, void **arrays) {
  for (int i = 0; i < size; ++i) free_array(arrays[i]);
}

static void complain(const Operator *o, const void *labels) {
  const Arguments *p = &o->prop->arguments;
  Complain function = on_bad_label;
  if (function)
    function(labels, o->label_type, o->samples, p->num_class, p->use_ignore, p->ignore_label);
}

/* Gets the memory of some arrays; returns 0 if MXNet reports an error. */
static int get_memory(int size, void **arrays, void **memory) {
  for (int i = 0; i < size; ++i)
    if (get_data(arrays[i], &memory[i])) return 0;
  return 1;
}

/* Arrays: data, label, output, centers. */
static int forward(int size, void **arrays, const int *tags, const int *reqs, int is_train,
                   void *context) {
  Operator *o = context;
  void *memory[4];
  int good = get_memory(4, arrays, memory);
  (void)tags;
  if (good) {
    good = step_forward(o->step, is_train, reqs[0], memory[0], memory[1], memory[2], memory[3]);
    if (!good) complain(o, memory[1]);
  } else {
    step_forget(o->step);
  }
  free_arrays(size, arrays);
  return good;
}

/* Arrays: head gradient, data, label, output, gradients of data and label, centers. Arrays that
   dependencies() does not list, and gradients that are not wanted, are empty. */
static int backward(int size, void **arrays, const int *tags, const int *reqs, int is_train,
                    void *context) {
  Operator *o = context;
  void *head_gradient = NULL, *inputs[2], *grads[2], *centers;
  int good = get_memory(2, arrays + 1, inputs) && get_memory(2, arrays + 4, grads) &&
             get_memory(1, arrays + 6, &centers) &&
             (!o->prop->arguments.need_top_grad || get_memory(1, arrays, &head_gradient));
  (void)tags;
  (void)is_train;
  if (good) {
    good = step_backward(o->step, reqs[0], head_gradient, grads[0], inputs[0], inputs[1], centers);
    if (!good) complain(o, inputs[1]);
  }
  if (good && o->samples && (reqs[1] == REQ_WRITE || reqs[1] == REQ_INPLACE))
    memset(grads[1], 0, (size_t)o->samples * label_size(o->label_type));
  free_arrays(size, arrays);
  return good;
}

static int operator_delete(void *context) {
  Operator *o = context;
  step_free(o->step);
  prop_release(o->prop);
  free(o);
  return 1;
}

/* An operator for these shapes and types; NULL if memory is short. */
static Operator *operator_new(Prop *prop, int samples, int features, const int *types) {
  Operator *o = malloc(sizeof *o);
  Step *step = step_new(&prop->arguments, samples, features, types[0], types[1]);
  if (!o || !step) {
    free(o);
    if (step) step_free(step);
    return NULL;
  }
  *o = (Operator){.step = step, .prop = prop, .samples = samples, .label_type = types[1]};
  for (int i = 0; i < OPERATOR_CALLBACKS; ++i) o->contexts[i] = o;
  atomic_fetch_add(&prop->references, 1);
  return o;
}

/* The shapes and types are those that infer_shape() and infer_type() gave, here or in Python. */
static int create(const char *device, int size, unsigned **shapes, const int *dims,
                  const int *types, CallbackList *list, void *context) {
  static Callback callbacks[] = {(Callback)operator_delete, (Callback)forward, (Callback)backward};
  Prop *prop = context;
  Operator *o = NULL;
  if (!strncmp(device, "cpu", 3) && shapes[0][1] > 0 && is_feature_type(types[0]) &&
      label_size(types[1]))
    o = operator_new(prop, (int)shapes[0][0], (int)shapes[0][1], types);
  if (!o) {
    CallbackList *in_python = python_of(prop);
    return in_python && ((Create)in_python->callbacks[CREATE])(device, size, shapes, dims, types,
                                                               list, in_python->contexts[CREATE]);
  }
  *list = (CallbackList){OPERATOR_CALLBACKS, callbacks, o->contexts};
  return 1;
}

/* -- the library's own interface, for native.py */

PUBLIC int center_loss_creator(const char *op_type, int size, const char **keys,
                               const char **values, CallbackList *list) {
  static Callback callbacks[] = {
      (Callback)prop_release, (Callback)list_names,   (Callback)list_names, (Callback)list_names,
      (Callback)infer_shape,  (Callback)dependencies, (Callback)create,     (Callback)infer_type};
  Prop *prop = enabled ? prop_new(size, keys, values) : NULL;
  if (!prop) return create_in_python(op_type, size, keys, values, list);
  Use use = on_use;
  if (use) use();
  *list = (CallbackList){PROP_CALLBACKS, callbacks, prop->contexts};
  return 1;
}

/* Before the creator is registered: two functions of MXNet, and those of Python. The number is
   raised with each change of what native.py and this library call of each other. */
PUBLIC void center_loss_init_4(void *get, void *release, Creator creator, Use use,
                               Complain bad_label, Warn unfollowed, Warn overlapping) {
  get_data = (int (*)(void *, void **))get;
  free_array = (int (*)(void *))release;
  python = creator;
  on_use = use;
  on_bad_label = bad_label;
  step_warn(unfollowed, overlapping);
}

/* At the end of the process: Python is not called any more. */
PUBLIC void center_loss_be_silent(void) {
  on_use = NULL;
  on_bad_label = NULL;
  step_warn(NULL, NULL);
}

/* Whether nodes that are made from now on run here. */
PUBLIC void center_loss_enable(int on) { enabled = on; }
