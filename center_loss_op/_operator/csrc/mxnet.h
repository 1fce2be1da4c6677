/* What MXNet 1.9.1 says of custom operators (include/mxnet/c_api.h), as far as it is used here.

   MXNet asks for everything through lists of functions. The one that is registered under the
   operator's name makes the list that describes a node of a graph (a Prop); that one's CREATE
   makes the list that computes (an operator). Each function gets the context that stands at its
   place in the list, and returns 1 for done, 0 for failed. */
#ifndef CENTER_LOSS_MXNET_H
#define CENTER_LOSS_MXNET_H

typedef int (*Callback)(void);

typedef struct {
  int size;
  Callback *callbacks;
  void **contexts;
} CallbackList;

enum { PROP_DELETE, LIST_ARGUMENTS, LIST_OUTPUTS, LIST_STATES, INFER_SHAPE, DEPENDENCIES, CREATE,
       INFER_TYPE, PROP_CALLBACKS };
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

/* Numbers of element types, and of the ways to store a result. */
enum { FLOAT32 = 0, FLOAT64 = 1, INT32 = 4, INT64 = 6 };
enum { REQ_NULL, REQ_WRITE, REQ_INPLACE, REQ_ADD };

/* The most elements that an array can have. */
#define MAX_ELEMENTS 2147483647

#endif
