/* Products of a matrix and a few vectors: sixteen rows of it at a time, a tile, for all vectors.

   Packed matrices are multiplied in integers: the vectors are rounded to 8 bits, 32 numbers by one scale (as llama.cpp
   does it). Dense ones in float32. */
#pragma once

#include "model.h"

enum { TILE = 16, GROUP = 32 };

/* What GROUP numbers of a vector have in common when they are rounded. */
typedef struct {
    float scale, sum; /* of all that the bytes stand for */
    int32_t less[3];  /* minus the sum of the bytes, and of those of each half */
} Group;

/* T vectors as matrices want them; each array has room for MOST_TOKENS times the longest. */
typedef struct {
    int length;
    float *values; /* [T, length] */
    int8_t *bytes; /* [T, length] */
    Group *groups; /* [T, length / GROUP] */
} Vectors;

typedef float Tile[MOST_TOKENS][TILE];

/* Make all of `to` that `matrix` needs, from its values. */
void vectors_prepare(Vectors *to, int tokens, const Matrix *matrix);

int matrix_tiles(const Matrix *matrix);

/* Bytes that are read for a tile. */
int64_t matrix_tile_bytes(const Matrix *matrix);

/* matrix · x + bias of the tile's rows, for each of the vectors; what lies behind the last row is without meaning. */
void matrix_tile(const Matrix *matrix, int tile, const Vectors *x, int tokens, Tile out);
