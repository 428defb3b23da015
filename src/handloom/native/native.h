/* What Python hands over, and what it may call. Shapes: M rows, K inputs, N outputs, C channels, H heads, D head
   width, S positions in the cache. Matrices are row-major float32 where nothing else is said. */

#ifndef HANDLOOM_NATIVE_H
#define HANDLOOM_NATIVE_H

#include <stdint.h>

enum { MAX_ROWS = 16 };                                   /* of one token step */
enum { INT4 = 4, INT8 = 8, FP16 = 16, FP32 = 32 };        /* bits of a weight */
enum { NONE = 0, GELU_TANH = 1, GELU = 2, RELU = 3 };     /* what is applied to the outputs of a linear */

/* A linear layer. FP32: the matrix as PyTorch has it, (N, K). The others are packed in blocks of 8 outputs, so that
   a vector holds one column of a block and no sum runs across lanes; N is padded to whole blocks with zeros.
     FP16: (N/8, K, 8) half precision.
     INT8: (N/8, G, 8, 8, 4) - block, group of 32 inputs, four inputs of it, output, input - with scales (N/8, G, 8).
     INT4: (N/8, G, 4, 8, 4): step j holds the four inputs j in the low and the four inputs j + 4 in the high half of
           each byte, as w + 8. K is padded to whole groups with zeros. */
typedef struct {
  const void *weight;
  const uint16_t *scales; /* half precision */
  const float *bias;      /* (N), or NULL */
  int32_t bits, inputs, outputs;
} Linear;

typedef struct {
  const float *weight, *bias; /* (C) */
} Norm;

typedef struct {
  Norm attention_norm, feedforward_norm;
  const Linear *qkv, *out, *up, *down;
  float *keys, *values; /* (slots, H, capacity, D) */
  float scale;          /* of attention scores */
} Block;

typedef struct {
  int32_t layers, heads, embed_dim, vocab_size, context_length, capacity, activation;
  float norm_eps;
  const Linear *embedding;         /* (V, C) as a table */
  const float *position_embedding; /* (context, C) */
  const Block *blocks;
  Norm final_norm;
  const Linear *head; /* NULL: no logits */
} Model;

/* Bytes of working memory that `decode_step` needs for `rows` rows. */
int64_t decode_step_bytes(const Model *model, int32_t rows);

/* One token of each of M rows: tokens, lengths (M) -> hidden (M, C) after the final norm, and logits (M, V) if there
   is a head. Row m is slot m of the cache, which holds `lengths[m]` positions; its keys and values are appended.
   Returns 0, or what is wrong: 1 rows, 2 a token, 3 a length, 4 working memory. */
int32_t decode_step(const Model *model, const int64_t *tokens, const int32_t *lengths, int32_t rows, float *hidden,
                    float *logits, char *work, int64_t work_bytes, int32_t threads);

/* x (M, K) -> out (M, N). Returns 0, or 4 when there is no memory. */
int32_t linear(const Linear *layer, const float *x, int64_t rows, float *out, int32_t activation, int32_t threads);

/* An activation of each of `count` numbers, at most 2^34: x -> out. */
void activation(const float *x, int64_t count, float *out, int32_t kind, int32_t threads);

#endif
