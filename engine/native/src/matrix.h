/* Products of a matrix and a few vectors: sixteen rows of it at a time, a tile, for all vectors.

   Packed matrices are multiplied in integers: the vectors are rounded to 8 bits, 32 numbers by one scale (as llama.cpp
   does it). Dense ones in float32. */
#pragma once

#include "model.h"

enum { TILE = 16, GROUP = 32 };

/* T vectors as matrices want them; each array has room for MOST_TOKENS times the longest. */
typedef struct {
    int length;
    float *values;  /* [T, length] */
    int8_t *bytes;  /* [T, length] */
    float *scales;  /* [T, length / 32] */
    int32_t *sums;  /* [T, length / 16], of the bytes */
} Vectors;

typedef float Tile[MOST_TOKENS][TILE];

/* Make all of `to` that `matrix` needs, from its values. */
void vectors_prepare(Vectors *to, int tokens, const Matrix *matrix);

int matrix_tiles(const Matrix *matrix);

/* Bytes that are read for a tile. */
int64_t matrix_tile_bytes(const Matrix *matrix);

/* matrix · x + bias of the tile's rows, for each of the vectors; what lies behind the last row is without meaning. */
void matrix_tile(const Matrix *matrix, int tile, const Vectors *x, int tokens, Tile out);
