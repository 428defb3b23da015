/* One token of each row through the whole model: what `handloom/model/gpt.py` does, in the same order and names. */

#include "linear.h"
#include "simd.h"
#include "threads.h"

/* ---- The parts ---- */

static float dot(const float *a, const float *b, int count) {
  f32x8 even = {0}, odd = {0};
  float rest = 0;
  int i = 0;
  for (; i + 16 <= count; i += 16) {
    even += load8(a + i) * load8(b + i);
    odd += load8(a + i + 8) * load8(b + i + 8);
  }
  for (; i < count; i++) rest += a[i] * b[i];
  return sum8(even + odd) + rest;
}

/* LayerNorm of one row: (C) -> (C). */
static void layer_norm(const Norm *norm, const float *x, int C, float eps, float *out) {
  f32x8 sums = {0}, squares = {0};
  float mean = 0, variance = 0;
  int i = 0;
  for (; i + 8 <= C; i += 8) sums += load8(x + i);
  for (; i < C; i++) mean += x[i];
  mean = (mean + sum8(sums)) / (float)C;
  for (i = 0; i + 8 <= C; i += 8) {
    f32x8 off = load8(x + i) - mean;
    squares += off * off;
  }
  for (; i < C; i++) variance += (x[i] - mean) * (x[i] - mean);
  float by = 1.f / sqrtf((variance + sum8(squares)) / (float)C + eps);
  for (i = 0; i < C; i++) out[i] = (x[i] - mean) * by * norm->weight[i] + norm->bias[i];
}

/* Scores to weights, in place: exp(score - highest) (S); returns what to divide by. */
static float softmax_weights(float *scores, int S, float highest) {
  f32x8 sums = {0};
  float sum = 0;
  int s = 0;
  for (; s + 8 <= S; s += 8) {
    float e[8];
    for (int i = 0; i < 8; i++) e[i] = exp_smooth(scores[s + i] - highest);
    store8(scores + s, load8(e));
    sums += load8(e);
  }
  for (; s < S; s++) sum += scores[s] = exp_smooth(scores[s] - highest);
  return sum + sum8(sums);
}

/* One head of one row: its key and value are appended to the cache, and its query looks at all S positions.
   q, k, v (D); keys and values (capacity, D) -> z (D). */
static void attention(const float *q, const float *k, const float *v, float *keys, float *values, int S, int D,
                      float scale, float *scores, float *restrict z) {
  memcpy(keys + (int64_t)(S - 1) * D, k, sizeof(float) * (size_t)D);
  memcpy(values + (int64_t)(S - 1) * D, v, sizeof(float) * (size_t)D);
  float highest = -INFINITY;
  for (int s = 0; s < S; s++) {
    scores[s] = dot(q, keys + (int64_t)s * D, D) * scale;
    highest = scores[s] > highest ? scores[s] : highest;
  }
  float by = 1.f / softmax_weights(scores, S, highest);
  int s = 0;
  memset(z, 0, sizeof(float) * (size_t)D);
  for (; s + 4 <= S; s += 4) {
    const float *a = values + (int64_t)s * D, *b = a + D, *c = b + D, *d = c + D;
    const float *w = scores + s;
    for (int i = 0; i < D; i++) z[i] += (w[0] * a[i] + w[1] * b[i]) + (w[2] * c[i] + w[3] * d[i]);
  }
  for (; s < S; s++)
    for (int i = 0; i < D; i++) z[i] += scores[s] * values[(int64_t)s * D + i];
  for (int i = 0; i < D; i++) z[i] *= by;
}

/* ---- The step ---- */

/* What all threads share, and behind it what each has for itself. */
typedef struct {
  const Model *model;
  const int64_t *tokens;
  const int32_t *lengths;
  int rows, threads, feedforward;
  float *x, *qkv, *z, *up; /* (M, C), (M, 3C), (M, C), (M, 4C) */
  float *hidden, *logits;  /* (M, C), (M, V) */
  char *own;               /* of thread t from own + t * own_bytes on */
  int64_t own_bytes;
} Step;

enum { QKV, ATTENTION, OUT, UP, DOWN, PER_BLOCK };
enum { FIRST = 1 }; /* phase 0 embeds; then five for each block; then the final norm; then the head */

static int64_t aligned(int64_t bytes) { return (bytes + 63) & ~(int64_t)63; }
static int64_t largest(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t floats_of_rows(const Model *model, int64_t rows) {
  int64_t C = model->embed_dim;
  return aligned(rows * C * 4) * 2 + aligned(rows * 3 * C * 4) + aligned(rows * model->blocks[0].up->outputs * 4);
}

/* Of a thread: which inputs it has prepared, the normed rows, and the rows as whole numbers or the scores of a head. */
static int64_t own_bytes(const Model *model, int64_t rows) {
  int64_t widest = largest(model->embed_dim, model->blocks[0].up->outputs);
  return 64 + aligned(rows * model->embed_dim * 4) +
         largest(inputs_bytes(rows, (int)widest), aligned((int64_t)model->context_length * 4 + 64));
}

static const Linear *layer_of(const Model *model, int phase) {
  if (phase == FIRST + PER_BLOCK * model->layers + 1) return model->head;
  const Block *block = &model->blocks[(phase - FIRST) / PER_BLOCK];
  switch ((phase - FIRST) % PER_BLOCK) {
    case QKV: return block->qkv;
    case OUT: return block->out;
    case UP: return block->up;
    default: return block->down;
  }
}

static int pieces_of(const Linear *layer, int threads) {
  int blocks = blocks_of(layer->outputs), most = threads * 6;
  return threads == 1 ? 1 : blocks < most ? blocks : most;
}

static int step_pieces(void *context, int phase) {
  Step *step = context;
  int after = phase - FIRST - PER_BLOCK * step->model->layers;
  if (phase == 0 || after == 0) return step->rows;
  if (after > 1 || (after == 1 && !step->model->head)) return 0;
  if (after < 0 && (phase - FIRST) % PER_BLOCK == ATTENTION) return step->rows * step->model->heads;
  return pieces_of(layer_of(step->model, phase), step->threads);
}

static void embed(Step *step, int row) {
  int C = step->model->embed_dim;
  float *x = step->x + (int64_t)row * C;
  const float *position = step->model->position_embedding + (int64_t)step->lengths[row] * C;
  read_row(step->model->embedding, step->tokens[row], x);
  for (int i = 0; i < C; i++) x[i] += position[i];
}

static void attend(Step *step, const Block *block, int piece, float *scores) {
  const Model *model = step->model;
  int C = model->embed_dim, D = C / model->heads, row = piece / model->heads, head = piece % model->heads;
  int64_t at = ((int64_t)row * model->heads + head) * model->capacity * D;
  const float *q = step->qkv + (int64_t)row * 3 * C + head * D;
  attention(q, q + C, q + 2 * C, block->keys + at, block->values + at, step->lengths[row] + 1, D, block->scale, scores,
            step->z + (int64_t)row * C + head * D);
}

/* A part of a linear layer. Each thread prepares the inputs for itself, once a phase: that is shorter than to wait. */
static void multiply(Step *step, int phase, int piece, char *own) {
  const Model *model = step->model;
  const Linear *layer = layer_of(model, phase);
  int *prepared = (int *)own, C = model->embed_dim, kind = (phase - FIRST) % PER_BLOCK;
  int at_head = phase > FIRST + PER_BLOCK * model->layers, normed = !at_head && (kind == QKV || kind == UP);
  const Block *block = at_head ? 0 : &model->blocks[(phase - FIRST) / PER_BLOCK];
  float *norms = (float *)(own + 64);
  const float *from = at_head ? step->hidden : normed ? norms : kind == OUT ? step->z : step->up;
  Inputs x = inputs_in(own + 64 + aligned((int64_t)step->rows * C * 4), from, step->rows, layer->inputs);
  if (*prepared != phase) {
    *prepared = phase;
    for (int row = 0; row < step->rows; row++) {
      const Norm *norm = normed ? (kind == QKV ? &block->attention_norm : &block->feedforward_norm) : 0;
      if (norm) layer_norm(norm, step->x + (int64_t)row * C, C, model->norm_eps, norms + (int64_t)row * C);
      if (layer->bits == INT8 || layer->bits == INT4) quantize_row(&x, row, layer->inputs);
    }
  }
  float *out = at_head ? step->logits : kind == QKV ? step->qkv : kind == UP ? step->up : step->x;
  int adds = !at_head && (kind == OUT || kind == DOWN), blocks = blocks_of(layer->outputs);
  int pieces = pieces_of(layer, step->threads), activation = !at_head && kind == UP ? model->activation : NONE;
  linear_blocks(layer, &x, 0, step->rows, out, activation, adds, part_of(blocks, piece, pieces),
                part_of(blocks, piece + 1, pieces));
}

static void step_work(void *context, int phase, int piece, int thread) {
  Step *step = context;
  const Model *model = step->model;
  char *own = step->own + thread * step->own_bytes;
  int after = phase - FIRST - PER_BLOCK * model->layers, C = model->embed_dim;
  if (phase == 0) {
    embed(step, piece);
  } else if (after == 0) {
    layer_norm(&model->final_norm, step->x + (int64_t)piece * C, C, model->norm_eps, step->hidden + (int64_t)piece * C);
  } else if (after < 0 && (phase - FIRST) % PER_BLOCK == ATTENTION) {
    *(int *)own = 0; /* the scores lie where prepared inputs did */
    char *scores = own + 64 + aligned((int64_t)step->rows * C * 4);
    attend(step, &model->blocks[(phase - FIRST) / PER_BLOCK], piece, (float *)scores);
  } else {
    multiply(step, phase, piece, own);
  }
}

int64_t decode_step_bytes(const Model *model, int32_t rows) {
  return floats_of_rows(model, rows) + MAX_THREADS * own_bytes(model, rows);
}

int32_t decode_step(const Model *model, const int64_t *tokens, const int32_t *lengths, int32_t rows, float *hidden,
                    float *logits, char *work, int64_t work_bytes, int32_t threads) {
  if (rows < 1 || rows > MAX_ROWS) return 1;
  for (int row = 0; row < rows; row++) {
    if (tokens[row] < 0 || tokens[row] >= model->vocab_size) return 2;
    if (lengths[row] < 0 || lengths[row] >= model->capacity || lengths[row] >= model->context_length) return 3;
  }
  if (work_bytes < decode_step_bytes(model, rows)) return 4;
  int64_t C = model->embed_dim, of_x = aligned(rows * C * 4), of_qkv = aligned((int64_t)rows * 3 * C * 4);
  threads = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
  Step step = {model, tokens, lengths, rows, threads, model->blocks[0].up->outputs, 0, 0, 0, 0, hidden, logits, 0, 0};
  step.x = (float *)work;
  step.z = (float *)(work + of_x);
  step.qkv = (float *)(work + 2 * of_x);
  step.up = (float *)(work + 2 * of_x + of_qkv);
  step.own = work + floats_of_rows(model, rows);
  step.own_bytes = own_bytes(model, rows);
  for (int thread = 0; thread < MAX_THREADS; thread++) *(int *)(step.own + thread * step.own_bytes) = 0;
  run_job(&(Job){&step, step_pieces, step_work}, threads);
  return 0;
}
