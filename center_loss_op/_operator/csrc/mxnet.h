/* MXNet 1.9.1's interface to custom operators (include/mxnet/c_api.h), as far as it is used here.

   MXNet calls lists of functions. The function that is registered under the operator's name (a
   Creator) makes the list that describes a node of a graph (a Prop); CREATE in that list makes the
   list that computes (an operator). Each function gets the context at its position in the list, and
   returns 1 for success, 0 for failure. */
#ifndef CENTER_LOSS_MXNET_H
#define CENTER_LOSS_MXNET_H

typedef int (*Callback)(void);

typedef struct {
  int size;
  Callback *callbacks;
  void **contexts;
} CallbackList;

enum {
  PROP_DELETE,
  LIST_ARGUMENTS,
  LIST_OUTPUTS,
  LIST_STATES,
  INFER_SHAPE,
  DEPENDENCIES,
  CREATE,
  INFER_TYPE,
  PROP_CALLBACKS
};
enum { OPERATOR_DELETE, FORWARD, BACKWARD, OPERATOR_CALLBACKS };

typedef int (*Creator)(const char *op_type, int size, const char **keys, const char **values,
                       CallbackList *list);
typedef int (*Delete)(void *context);
typedef int (*InferShape)(int size, int *dims, int **shapes, void *context);
typedef int (*InferType)(int size, int *types, void *context);
typedef int (*Create)(const char *device, int size, unsigned **shapes, const int *dims,
                      const int *types, CallbackList *list, void *context);
typedef int (*Compute)(int size, void **arrays, const int *tags, const int *reqs, int is_train,
                       void *context);

/* MXNet's numbers for element types, and for the ways to store a result. */
enum { FLOAT32 = 0, FLOAT64 = 1, INT32 = 4, INT64 = 6 };
enum { REQ_NULL, REQ_WRITE, REQ_INPLACE, REQ_ADD };

/* The most elements that an array can have. */
#define MAX_ELEMENTS 2147483647

#endif
