/* The arithmetic of a step for numbers of type T. step.c includes this file twice: for float and
   for double.

   Every loop adds in one fixed order, whatever instructions the compiler chooses, so that each
   processor gives the same bits. Hence the LANES partial sums in distance(), which are added in
   pairs, and no contraction to fused multiply-adds (setup.py). */

/* difference ← x − c. Returns ½ ‖x − c‖².

   The loss must not be finite where a feature is not, or where a square overflows:
   all_are_finite() relies on that. A loss that hides a NaN, such as v > 0 ? v : 0, would let it
   into the centers. */
CLONES
static T NAME(distance)(const T *restrict x, const T *restrict c, T *restrict difference,
                        size_t features) {
  T sums[LANES] = {0}, sum;
  size_t k = 0;
  for (; k + LANES <= features; k += LANES)
    for (size_t lane = 0; lane < LANES; ++lane) {
      T v = x[k + lane] - c[k + lane];
      difference[k + lane] = v;
      sums[lane] += v * v;
    }
  for (size_t half = LANES / 2; half; half /= 2)
    for (size_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  for (sum = sums[0]; k < features; ++k) {
    T v = x[k] - c[k];
    difference[k] = v;
    sum += v * v;
  }
  return sum / 2;
}

/* target ← factor · row */
CLONES
static void NAME(store_multiple)(const T *restrict row, T factor, T *restrict target,
                                 size_t features) {
  for (size_t k = 0; k < features; ++k) target[k] = factor * row[k];
}

/* target ← target + factor · row */
CLONES
static void NAME(add_multiple)(const T *restrict row, T factor, T *restrict target,
                               size_t features) {
  for (size_t k = 0; k < features; ++k) target[k] += factor * row[k];
}

/* grad ← factor · row, and center ← center + weight · row: most steps spend their time here. */
CLONES
static void NAME(store_and_add_multiples)(const T *restrict row, T factor, T *restrict grad,
                                          T weight, T *restrict center, size_t features) {
  for (size_t k = 0; k < features; ++k) {
    T v = row[k];
    grad[k] = factor * v;
    center[k] += weight * v;
  }
}

static int NAME(is_finite)(const T *row, size_t features) {
  for (size_t k = 0; k < features; ++k)
    if (!isfinite(row[k])) return 0;
  return 1;
}

/* Computes x_i − c_{y_i} (0 where a sample does not count), the losses, and their sum. The labels
   are checked before. */
static void NAME(differences_and_losses)(Step *s, const T *data, const T *centers) {
  T *losses = s->losses;
  const size_t features = s->features;
  s->total = 0;
  for (int i = 0; i < s->samples; ++i) {
    T *difference = (T *)s->difference + i * features;
    if (i + AHEAD < s->samples && s->at[i + AHEAD].class != IGNORED)
      prefetch(centers + s->at[i + AHEAD].class * features, features * sizeof(T));
    if (s->at[i].class == IGNORED) {
      memset(difference, 0, features * sizeof(T));
      losses[i] = 0;
    } else {
      const T *x = data + i * features, *c = centers + s->at[i].class * features;
      /* s->features is read again: a copy of it on the stack costs 4 ns per sample. */
      losses[i] = NAME(distance)(x, c, difference, s->features);
    }
    s->total += losses[i];
  }
}

static void NAME(store_loss)(const Step *s, int req, T *out) {
  const T *losses = s->losses;
  T reduced = (T)(s->arguments->reduction == MEAN && s->count > 1 ? s->total / s->count : s->total);
  const T scale = s->arguments->scale_output ? (T)s->arguments->scale : 1;
  int none = s->arguments->reduction == NONE, outputs = none ? s->samples : 1;
  for (int i = 0; i < outputs; ++i) {
    T value = scale * (none ? losses[i] : reduced);
    if (req == REQ_ADD) out[i] += value;
    else if (req != REQ_NULL) out[i] = value;
  }
}

/* Groups the samples that move a center by class: those that count and hold finite features. */
static void NAME(group)(Step *s, const T *data) {
  const size_t features = s->features;
  const int all_finite = all_are_finite(s);
  memset(s->table, -1, sizeof(int32_t) << s->bits);
  for (int i = 0; i < s->samples; ++i)
    if (s->at[i].class != IGNORED &&
        (all_finite || NAME(is_finite)(data + i * features, features))) {
      group_add(s, i);
    } else {
      s->at[i].members = ALONE;
    }
}

/* The gradient of sample i, as a multiple of its difference: λ · r, times the head gradient. */
static T NAME(gradient_weight)(const Step *s, const T *head_gradient, int i) {
  const Arguments *p = s->arguments;
  const T scale = (T)(p->reduction == MEAN && s->count > 1 ? p->scale / s->count : p->scale);
  return head_gradient ? head_gradient[p->reduction == NONE ? i : 0] * scale : scale;
}

static void NAME(store_gradient)(const Step *s, int req, const T *head_gradient, int i, T *grad) {
  const size_t features = s->features;
  const T *row = (const T *)s->difference + i * features;
  const T weight = NAME(gradient_weight)(s, head_gradient, i);
  grad += i * features;
  if (req == REQ_ADD) NAME(add_multiple)(row, weight, grad, features);
  else if (req != REQ_NULL) NAME(store_multiple)(row, weight, grad, features);
}

/* center ← center + weight · sum. With `careful`, a center whose new value is not finite stays. */
static void NAME(move_center)(T *sum, T weight, T *center, size_t features, int careful) {
  if (!careful) {
    NAME(add_multiple)(sum, weight, center, features);
    return;
  }
  for (size_t k = 0; k < features; ++k) sum[k] = center[k] + weight * sum[k];
  if (NAME(is_finite)(sum, features)) memcpy(center, sum, features * sizeof(T));
}

/* Stores the gradient and, with `move`, applies equation 4:
   c_j ← c_j + α Σ_{y_i=j} (x_i − c_j) / (1 + n_j).
   It reads each difference once: the first sample of a class does the whole class, storing the
   gradients of its samples and adding them up, and the others are skipped. */
static void NAME(gradient_and_update)(Step *s, int req, const T *head_gradient, T *grad,
                                      const T *data, T *centers, int move) {
  const size_t features = s->features;
  const int careful = !all_are_finite(s) || s->arguments->alpha > LARGE;
  T *sum = s->sum;
  if (move) NAME(group)(s, data);
  for (int i = 0; i < s->samples; ++i) {
    if (!move || s->at[i].members == ALONE) {
      NAME(store_gradient)(s, req, head_gradient, i, grad);
      continue;
    }
    if (s->at[i].members == FOLLOWS) continue;
    if (i + AHEAD < s->samples && s->at[i + AHEAD].members > 0)
      prefetch(centers + s->at[i + AHEAD].class * features, features * sizeof(T));
    T *center = centers + s->at[i].class * features;
    T weight = (T)(s->arguments->alpha / (1.0 + s->at[i].members));
    const T *row = (const T *)s->difference + i * features;
    if (s->at[i].members == 1 && !careful && (req == REQ_WRITE || req == REQ_INPLACE)) {
      const T factor = NAME(gradient_weight)(s, head_gradient, i);
      NAME(store_and_add_multiples)(row, factor, grad + i * features, weight, center, features);
      continue;
    }
    memcpy(sum, row, features * sizeof(T));
    NAME(store_gradient)(s, req, head_gradient, i, grad);
    for (int j = s->at[i].next; j >= 0; j = s->at[j].next) {
      NAME(add_multiple)((const T *)s->difference + j * features, 1, sum, features);
      NAME(store_gradient)(s, req, head_gradient, j, grad);
    }
    NAME(move_center)(sum, weight, center, features, careful);
  }
}
