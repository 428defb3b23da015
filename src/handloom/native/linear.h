/* The parts of a linear layer that a token step runs by itself. */

#ifndef HANDLOOM_LINEAR_H
#define HANDLOOM_LINEAR_H

#include <stdint.h>

#include "native.h"

enum { GROUP = 32, BLOCK = 8 };

/* Rows of inputs, as the weights want them: x itself, and for INT8 and INT4 also whole numbers with a scale for each
   group, q * scale ~ x. */
typedef struct {
  const float *x;  /* (M, K) */
  int8_t *q;       /* (M, K padded to groups) */
  float *scale;    /* (M, G) */
  int32_t *sum;    /* (M, G): 8 times the sum of a group, which 4-bit weights of w + 8 count too much */
} Inputs;

static inline int groups_of(int inputs) { return (inputs + GROUP - 1) / GROUP; }
/* Where piece number `piece` of so many begins, when a count is divided among them. */
static inline int part_of(int count, int piece, int pieces) { return (int)((int64_t)count * piece / pieces); }
static inline int blocks_of(int outputs) { return (outputs + BLOCK - 1) / BLOCK; }

/* Bytes behind q, scale and sum for that many rows of K inputs. */
int64_t inputs_bytes(int64_t rows, int inputs);

/* `Inputs` in `memory` of that size; `quantize_row` fills a row in. */
Inputs inputs_in(char *memory, const float *x, int64_t rows, int inputs);
void quantize_row(const Inputs *to, int64_t row, int inputs);

/* Outputs of blocks `from` to `to` for rows `first` to `last`: out = activation(x W^T + bias), or out += of it. */
void linear_blocks(const Linear *layer, const Inputs *x, int64_t first, int64_t last, float *out, int activation,
                   int residual, int from, int to);

/* One row of the matrix as numbers: (K). */
void read_row(const Linear *table, int64_t row, float *out);

#endif
