/* x (M, K) times the transpose of W (N, K), for weights of 4, 8, 16 and 32 bits. */

#include "linear.h"

#include <stdlib.h>

#include "simd.h"
#include "threads.h"

/* AVX-512 has twice as many registers: enough for two blocks at once. */
#if defined(__AVX512VL__)
enum { WIDE = 2 };
#else
enum { WIDE = 1 };
#endif
enum { TILE = 4, PANEL_BYTES = 24 << 10, AHEAD = 2048 };

/* ---- Inputs ---- */

static int64_t aligned(int64_t bytes) { return (bytes + 63) & ~(int64_t)63; }

int64_t inputs_bytes(int64_t rows, int inputs) {
  int64_t G = groups_of(inputs);
  return aligned(rows * G * GROUP) + aligned(rows * G * 4) * 2;
}

Inputs inputs_in(char *memory, const float *x, int64_t rows, int inputs) {
  int64_t G = groups_of(inputs);
  char *scale = memory + aligned(rows * G * GROUP);
  return (Inputs){x, (int8_t *)memory, (float *)scale, (int32_t *)(scale + aligned(rows * G * 4))};
}

/* Each group of 32 becomes whole numbers from -127 to 127 and a scale. */
void quantize_row(const Inputs *to, int64_t row, int inputs) {
  int G = groups_of(inputs);
  const float *x = to->x + row * inputs;
  for (int g = 0; g < G; g++) {
    float rest[GROUP] = {0}, top = 0;
    const float *group = x + g * GROUP;
    int8_t *q = to->q + (row * G + g) * GROUP;
    if (inputs - g * GROUP < GROUP) group = memcpy(rest, group, sizeof(float) * (size_t)(inputs - g * GROUP));
    f32x8 a = load8(group), b = load8(group + 8), c = load8(group + 16), d = load8(group + 24);
    f32x8 tops = larger8(larger8(absolute8(a), absolute8(b)), larger8(absolute8(c), absolute8(d)));
    for (int i = 0; i < 8; i++) top = tops[i] > top ? tops[i] : top;
    float spoilt = sum8(a * 0.f + b * 0.f + c * 0.f + d * 0.f); /* what is not finite shows in the scale */
    float by = top > 0 && top <= 3.4e38f ? 127.f / top : 0;
    int32_t sum = 0;
    for (int i = 0; i < GROUP; i++) {
      float rounded = group[i] * by + 12582912.f; /* 1.5 * 2^23: the low bits of the sum are the whole number */
      int32_t bits;
      memcpy(&bits, &rounded, 4);
      q[i] = (int8_t)bits;
    }
    for (int i = 0; i < GROUP; i++) sum += q[i];
    to->scale[row * G + g] = top / 127.f + spoilt;
    to->sum[row * G + g] = 8 * sum;
  }
}

/* ---- One or two blocks of 8 outputs for a tile of up to 4 rows: sums[block][row] (8) ---- */

typedef f32x8 Sums[WIDE][TILE];

INLINE void fetch_ahead(const void *at, int bytes) {
  for (int i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)at + AHEAD + i);
}

/* What a group of inputs adds: whole numbers less what their weights have too much, times both scales. */
INLINE void add_scaled(i32x8 whole[WIDE][TILE], int excess, const uint16_t *scales, int wide, const Inputs *x,
                       int64_t row, int tile, int g, int G, Sums sums) {
  for (int b = 0; b < wide; b++) {
    f32x8 scale = load_half8(scales + (int64_t)b * G * BLOCK);
    for (int m = 0; m < tile; m++) {
      int64_t at = (row + m) * G + g;
      sums[b][m] += to_float(whole[b][m] - excess * x->sum[at]) * (scale * x->scale[at]);
    }
  }
}

INLINE void dot_int8(const Linear *layer, int block, int wide, const Inputs *x, int64_t row, int tile, Sums sums) {
  int G = groups_of(layer->inputs);
  int64_t of_block = (int64_t)G * GROUP * BLOCK;
  const int8_t *w = (const int8_t *)layer->weight + block * of_block;
  const uint16_t *scales = layer->scales + (int64_t)block * G * BLOCK;
  for (int g = 0; g < G; g++, w += GROUP * BLOCK, scales += BLOCK) {
    i32x8 whole[WIDE][TILE] = {0};
    for (int b = 0; b < wide; b++) fetch_ahead(w + b * of_block, GROUP * BLOCK);
    for (int j = 0; j < 8; j++) {
      for (int m = 0; m < tile; m++) {
        i8x32 inputs = repeat4(x->q + ((row + m) * G + g) * GROUP + 4 * j);
        for (int b = 0; b < wide; b++)
          whole[b][m] = dot4_signed(whole[b][m], *(const i8x32 *)(w + b * of_block + 32 * j), inputs);
      }
    }
    add_scaled(whole, EXCESS, scales, wide, x, row, tile, g, G, sums);
  }
}

INLINE void dot_int4(const Linear *layer, int block, int wide, const Inputs *x, int64_t row, int tile, Sums sums) {
  int G = groups_of(layer->inputs);
  int64_t of_block = (int64_t)G * GROUP * BLOCK / 2;
  const uint8_t *w = (const uint8_t *)layer->weight + block * of_block;
  const uint16_t *scales = layer->scales + (int64_t)block * G * BLOCK;
  for (int g = 0; g < G; g++, w += GROUP * BLOCK / 2, scales += BLOCK) {
    NibbleSum whole[WIDE][TILE] = {0};
    for (int b = 0; b < wide; b++) fetch_ahead(w + b * of_block, GROUP * BLOCK / 2);
    for (int j = 0; j < 4; j++) {
      u8x32 low[WIDE], high[WIDE];
      for (int b = 0; b < wide; b++) {
        u8x32 both = *(const u8x32 *)(w + b * of_block + 32 * j);
        low[b] = both & 15;
        high[b] = (u8x32)((i16x16)both >> 4) & 15;
      }
      for (int m = 0; m < tile; m++) {
        const int8_t *q = x->q + ((row + m) * G + g) * GROUP + 4 * j;
        for (int b = 0; b < wide; b++)
          whole[b][m] = add_nibbles(add_nibbles(whole[b][m], low[b], repeat4(q)), high[b], repeat4(q + 16));
      }
    }
    i32x8 totals[WIDE][TILE];
    for (int b = 0; b < wide; b++)
      for (int m = 0; m < tile; m++) totals[b][m] = total_of_nibbles(whole[b][m]);
    add_scaled(totals, 1, scales, wide, x, row, tile, g, G, sums);
  }
}

INLINE void dot_fp16(const Linear *layer, int block, int wide, const Inputs *x, int64_t row, int tile, Sums sums) {
  int K = layer->inputs, k = 0;
  int64_t of_block = (int64_t)K * BLOCK;
  const uint16_t *w = (const uint16_t *)layer->weight + block * of_block;
  Sums odd = {0};
  for (; k + 2 <= K; k += 2, w += 2 * BLOCK) {
    for (int b = 0; b < wide; b++) {
      f32x8 first = load_half8(w + b * of_block), second = load_half8(w + b * of_block + BLOCK);
      if (k % 4 == 0) fetch_ahead(w + b * of_block, 64);
      for (int m = 0; m < tile; m++) {
        const float *y = x->x + (row + m) * K + k;
        sums[b][m] += first * y[0];
        odd[b][m] += second * y[1];
      }
    }
  }
  for (int b = 0; b < wide; b++)
    for (int m = 0; m < tile; m++)
      sums[b][m] += odd[b][m];
  if (k < K) /* one is left */
    for (int b = 0; b < wide; b++)
      for (int m = 0; m < tile; m++) sums[b][m] += load_half8(w + b * of_block) * x->x[(row + m) * K + k];
}

/* The matrix as it is: eight rows side by side, the sum of each across its lanes at the end. */
INLINE void dot_fp32(const Linear *layer, int block, const Inputs *x, int64_t row, int tile, f32x8 *sums) {
  int K = layer->inputs, here = layer->outputs - block * BLOCK < BLOCK ? layer->outputs - block * BLOCK : BLOCK;
  const float *w[BLOCK], *first = (const float *)layer->weight + (int64_t)block * BLOCK * K;
  for (int r = 0; r < BLOCK; r++) w[r] = first + (int64_t)(r < here ? r : 0) * K; /* the first, where none is */
  for (int m = 0; m < tile; m++) {
    const float *y = x->x + (row + m) * K;
    f32x8 parts[BLOCK] = {0};
    int k = 0;
    for (; k + 8 <= K; k += 8)
      for (int r = 0; r < BLOCK; r++) parts[r] += load8(w[r] + k) * load8(y + k);
    for (int r = 0; r < here; r++) {
      float sum = sum8(parts[r]);
      for (int i = k; i < K; i++) sum += w[r][i] * y[i];
      sums[m][r] = sum;
    }
  }
}

/* ---- Outputs ---- */

static void activate(float *v, int count, int activation) {
  if (activation == GELU_TANH) { /* x * sigmoid(2 u), which is x (1 + tanh u) / 2 */
    for (int i = 0; i < count; i++) {
      float u = 1.5957691216f * (v[i] + 0.044715f * v[i] * v[i] * v[i]);
      v[i] = v[i] / (1.f + exp_smooth(-u));
    }
  } else if (activation == GELU) {
    for (int i = 0; i < count; i++) v[i] = 0.5f * v[i] * (1.f + erff(v[i] * 0.70710678f));
  } else if (activation == RELU) {
    for (int i = 0; i < count; i++) v[i] = v[i] > 0 ? v[i] : v[i] * 0.f; /* not a number stays so */
  }
}

INLINE void finish(const Linear *layer, int block, f32x8 sums, float *out, int activation, int residual) {
  int here = layer->outputs - block * BLOCK < BLOCK ? layer->outputs - block * BLOCK : BLOCK;
  float v[BLOCK];
  store8(v, sums);
  if (layer->bias)
    for (int r = 0; r < here; r++) v[r] += layer->bias[block * BLOCK + r];
  activate(v, BLOCK, activation);
  for (int r = 0; r < here; r++) out[r] = residual ? out[r] + v[r] : v[r];
}

INLINE void one_tile(const Linear *layer, const Inputs *x, int64_t row, int tile, float *out, int activation,
                     int residual, int block, int wide) {
  Sums sums = {0};
  switch (layer->bits) {
    case INT4: dot_int4(layer, block, wide, x, row, tile, sums); break;
    case INT8: dot_int8(layer, block, wide, x, row, tile, sums); break;
    case FP16: dot_fp16(layer, block, wide, x, row, tile, sums); break;
    default:
      for (int b = 0; b < wide; b++) dot_fp32(layer, block + b, x, row, tile, sums[b]);
  }
  for (int b = 0; b < wide; b++)
    for (int m = 0; m < tile; m++)
      finish(layer, block + b, sums[b][m], out + (row + m) * layer->outputs + (int64_t)(block + b) * BLOCK, activation,
             residual);
}

/* The numbers of rows and blocks in a tile are known to the compiler. */
INLINE void blocks_of_rows(const Linear *layer, const Inputs *x, int64_t row, int64_t rows, float *out, int activation,
                           int residual, int block, int wide) {
  switch (rows) {
    case 1: one_tile(layer, x, row, 1, out, activation, residual, block, wide); break;
    case 2: one_tile(layer, x, row, 2, out, activation, residual, block, wide); break;
    case 3: one_tile(layer, x, row, 3, out, activation, residual, block, wide); break;
    default: one_tile(layer, x, row, TILE, out, activation, residual, block, wide);
  }
}

void linear_blocks(const Linear *layer, const Inputs *x, int64_t first, int64_t last, float *out, int activation,
                   int residual, int from, int to) {
  int wide = last - first > 1 ? WIDE : 1; /* one row waits for memory, and reads best what lies in a row */
  for (int block = from; block < to; block += wide) {
    wide = to - block < wide ? to - block : wide;
    for (int64_t row = first; row < last; row += TILE) {
      if (wide == WIDE) blocks_of_rows(layer, x, row, last - row, out, activation, residual, block, WIDE);
      else blocks_of_rows(layer, x, row, last - row, out, activation, residual, block, 1);
    }
  }
}

void read_row(const Linear *table, int64_t row, float *out) {
  int K = table->inputs, G = groups_of(K), r = (int)(row % BLOCK);
  int64_t block = row / BLOCK;
  const uint16_t *half = (const uint16_t *)table->weight + block * K * BLOCK;
  const int8_t *whole = (const int8_t *)table->weight + block * G * GROUP * BLOCK;
  for (int k = 0; k < K; k++) {
    if (table->bits == FP32) {
      out[k] = ((const float *)table->weight)[row * K + k];
    } else if (table->bits == FP16) {
      out[k] = load_half8(half + (int64_t)k * BLOCK)[r];
    } else {
      int g = k / GROUP, i = k % GROUP;
      float scale = load_half8(table->scales + (block * G + g) * BLOCK)[r];
      out[k] = (float)whole[(int64_t)g * GROUP * BLOCK + i / 4 * 32 + r * 4 + i % 4] * scale;
    }
  }
}

/* ---- A layer by itself ---- */

typedef struct {
  const Linear *layer;
  Inputs x;
  int64_t rows;
  float *out;
  int activation, blocks, pieces, row_pieces;
} Call;

enum { ROWS_PER_PIECE = 16, NUMBERS_PER_PIECE = 2048 };

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int is_whole(const Linear *layer) { return layer->bits == INT8 || layer->bits == INT4; }

static int call_pieces(void *context, int phase) {
  Call *call = context;
  return phase == 0 ? call->row_pieces : phase == 1 ? call->pieces : 0;
}

static void call_work(void *context, int phase, int piece, int thread) {
  Call *call = context;
  const Linear *layer = call->layer;
  (void)thread;
  if (!layer) {
    int64_t first = (int64_t)piece * NUMBERS_PER_PIECE, count = smaller(NUMBERS_PER_PIECE, call->rows - first);
    activate(memcpy(call->out + first, call->x.x + first, sizeof(float) * (size_t)count), (int)count, call->activation);
    return;
  }
  if (phase == 0) { /* fp16 and fp32 have nothing to prepare */
    int64_t first = (int64_t)piece * ROWS_PER_PIECE, last = smaller(first + ROWS_PER_PIECE, call->rows);
    for (int64_t row = first; is_whole(layer) && row < last; row++)
      quantize_row(&call->x, row, layer->inputs);
    return;
  }
  int from = part_of(call->blocks, piece, call->pieces), to = part_of(call->blocks, piece + 1, call->pieces);
  int64_t panel = PANEL_BYTES / (layer->inputs * (is_whole(layer) ? 1 : 4)) / TILE * TILE; /* rows that stay in L1 */
  panel = panel < TILE ? TILE : panel;
  for (int64_t first = 0; first < call->rows; first += panel)
    linear_blocks(layer, &call->x, first, smaller(first + panel, call->rows), call->out, call->activation, 0, from, to);
}

int32_t linear(const Linear *layer, const float *x, int64_t rows, float *out, int32_t activation, int32_t threads) {
  char *memory = is_whole(layer) ? aligned_alloc(64, (size_t)inputs_bytes(rows, layer->inputs)) : 0;
  if (is_whole(layer) && !memory) return 4;
  Call call = {layer, {x, 0, 0, 0}, rows, out, activation, blocks_of(layer->outputs), 0, 0};
  if (memory) call.x = inputs_in(memory, x, rows, layer->inputs);
  call.pieces = call.blocks < threads * 6 ? call.blocks : threads * 6;
  call.row_pieces = (int)((rows + ROWS_PER_PIECE - 1) / ROWS_PER_PIECE);
  if (rows > 0) run_job(&(Job){&call, call_pieces, call_work}, threads);
  free(memory);
  return 0;
}

/* The same job without a layer: the activation of each number. */
void activation(const float *x, int64_t count, float *out, int32_t kind, int32_t threads) {
  Call call = {0, {x, 0, 0, 0}, count, out, kind, 0, 0, (int)((count + NUMBERS_PER_PIECE - 1) / NUMBERS_PER_PIECE)};
  run_job(&(Job){&call, call_pieces, call_work}, threads);
}
