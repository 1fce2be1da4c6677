/* The arithmetic of a step for numbers of type T: included by step.c for float and for double.

   Every loop has one order of additions, whatever instructions the compiler makes of it: the same
   bits on each processor. That is why there are LANES sums in distance(), to be added in pairs,
   and why all is compiled without contraction to fused multiply-adds. */

/* difference ← x − c. Returns ½ ‖x − c‖². */
CLONES
static T NAME(distance)(const T *restrict x, const T *restrict c, T *restrict difference,
                         size_t size) {
  T sums[LANES] = {0}, sum;
  size_t k = 0;
  for (; k + LANES <= size; k += LANES)
    for (size_t lane = 0; lane < LANES; ++lane) {
      T v = x[k + lane] - c[k + lane];
      difference[k + lane] = v;
      sums[lane] += v * v;
    }
  for (size_t half = LANES / 2; half; half /= 2)
    for (size_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  for (sum = sums[0]; k < size; ++k) {
    T v = x[k] - c[k];
    difference[k] = v;
    sum += v * v;
  }
  return sum / 2;
}

/* target ← factor · row */
CLONES
static void NAME(scale)(const T *restrict row, T factor, T *restrict target, size_t size) {
  for (size_t k = 0; k < size; ++k) target[k] = factor * row[k];
}

/* target ← target + factor · row */
CLONES
static void NAME(add)(const T *restrict row, T factor, T *restrict target, size_t size) {
  for (size_t k = 0; k < size; ++k) target[k] += factor * row[k];
}

/* grad ← factor · row, and center ← center + weight · row: most steps are made of this */
CLONES
static void NAME(scale_and_add)(const T *restrict row, T factor, T *restrict grad, T weight,
                                T *restrict center, size_t size) {
  for (size_t k = 0; k < size; ++k) {
    T v = row[k];
    grad[k] = factor * v;
    center[k] += weight * v;
  }
}

static int NAME(finite)(const T *row, size_t size) {
  for (size_t k = 0; k < size; ++k)
    if (!isfinite(row[k])) return 0;
  return 1;
}

/* x_i − c_{y_i} (0 where a sample does not count), ½ ‖·‖² of each, and their sum. The labels are
   checked. */
static void NAME(compare)(Step *s, const T *data, const T *centers) {
  T *losses = s->losses;
  size_t size = s->size;
  s->total = 0;
  for (int i = 0; i < s->samples; ++i) {
    T *difference = (T *)s->difference + i * size;
    if (i + AHEAD < s->samples && s->classes[i + AHEAD] != IGNORED)
      prefetch(centers + s->classes[i + AHEAD] * size, size * sizeof(T));
    if (s->classes[i] == IGNORED) {
      memset(difference, 0, size * sizeof(T));
      losses[i] = 0;
    } else {
      losses[i] = NAME(distance)(data + i * size, centers + s->classes[i] * size, difference,
                                 s->size);
    }
    s->total += losses[i];
  }
}

static void NAME(store_loss)(const Step *s, int req, T *out) {
  const T *losses = s->losses;
  T reduced = (T)(s->params->reduction == MEAN && s->count > 1 ? s->total / s->count : s->total);
  const T scale = s->params->scale_output ? (T)s->params->scale : 1;
  int none = s->params->reduction == NONE, size = none ? s->samples : 1;
  for (int i = 0; i < size; ++i) {
    T value = scale * (none ? losses[i] : reduced);
    if (req == REQ_ADD) out[i] += value;
    else if (req != REQ_NULL) out[i] = value;
  }
}

/* Group the samples that move a center: all that count and, where the batch is not finite, hold
   finite features. */
static void NAME(group)(Step *s, const T *data) {
  size_t size = s->size;
  group_begin(s);
  for (int i = 0; i < s->samples; ++i)
    if (s->classes[i] != IGNORED && (isfinite(s->total) || NAME(finite)(data + i * size, s->size)))
      group_add(s, i);
    else
      s->members[i] = ALONE;
}

/* What sample i's row of the gradient is of its difference. */
static T NAME(factor)(const Step *s, const T *head, int i) {
  double factor = s->params->scale;
  if (s->params->reduction == MEAN && s->count > 1) factor /= s->count;
  if (!head) return (T)factor;
  return head[s->params->reduction == NONE ? i : 0] * (T)factor;
}

static void NAME(store_grad)(const Step *s, int req, T factor, int i, T *grad) {
  const T *row = (const T *)s->difference + i * (size_t)s->size;
  grad += i * (size_t)s->size;
  if (req == REQ_ADD) NAME(add)(row, factor, grad, s->size);
  else if (req != REQ_NULL) NAME(scale)(row, factor, grad, s->size);
}

/* center ← center + weight · sum; what is not finite keeps its center, where that may be. */
static void NAME(move_row)(T *sum, T weight, T *center, size_t size, int careful) {
  if (!careful) {
    NAME(add)(sum, weight, center, size);
    return;
  }
  for (size_t k = 0; k < size; ++k) sum[k] = center[k] + weight * sum[k];
  if (NAME(finite)(sum, size)) memcpy(center, sum, size * sizeof(T));
}

/* The gradient, and equation 4 where `move` says so: c_j ← c_j + α Σ_{y_i=j} (x_i − c_j) / (1 + n_j).
   In one pass over the differences: each class is done when its first sample is met. */
static void NAME(gradient_and_update)(Step *s, int req, const T *head, T *grad, const T *data,
                                      T *centers, int move) {
  size_t size = s->size;
  int careful = !isfinite(s->total) || s->params->alpha > LARGE;
  T *sum = s->sum;
  if (move) NAME(group)(s, data);
  for (int i = 0; i < s->samples; ++i) {
    if (!move || s->members[i] == ALONE) {
      NAME(store_grad)(s, req, NAME(factor)(s, head, i), i, grad);
      continue;
    }
    if (s->members[i] == FOLLOWS) continue;
    if (i + AHEAD < s->samples && s->members[i + AHEAD] > 0)
      prefetch(centers + s->classes[i + AHEAD] * size, size * sizeof(T));
    T *center = centers + s->classes[i] * size;
    T weight = (T)(s->params->alpha / (1.0 + s->members[i]));
    const T *row = (const T *)s->difference + i * size;
    if (s->members[i] == 1 && !careful && (req == REQ_WRITE || req == REQ_INPLACE)) {
      NAME(scale_and_add)(row, NAME(factor)(s, head, i), grad + i * size, weight, center, s->size);
      continue;
    }
    memcpy(sum, row, size * sizeof(T));
    NAME(store_grad)(s, req, NAME(factor)(s, head, i), i, grad);
    for (int j = s->next[i]; j >= 0; j = s->next[j]) {
      NAME(add)((const T *)s->difference + j * size, 1, sum, s->size);
      NAME(store_grad)(s, req, NAME(factor)(s, head, j), j, grad);
    }
    NAME(move_row)(sum, weight, center, s->size, careful);
  }
}
