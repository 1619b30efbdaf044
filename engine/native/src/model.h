/* What a step reads and writes. engine/native/abi.py mirrors these structures field by field.

   T tokens stand in rows. Nothing here is owned: all memory is the caller's. */
#pragma once

#include <stdint.h>

/* One more with every change of these structures or of many.h's, which may leave their sizes as they are. */
enum { ABI_VERSION = 2 };

/* Most tokens of a step, and most stretches that a row's context is cut into. */
enum { MOST_TOKENS = 64, MOST_STRETCHES = 64 };

/* How a matrix is kept: dense ones are row-major, packed ones as engine/native/packing.py says. */
enum { DENSE_F32, DENSE_BF16, PACKED_Q4, PACKED_Q5, PACKED_Q8, PACKED_Q4_K, PACKED_Q5_K, PACKED_Q6_K };

/* How KV and the embedding are kept. */
enum { F32, BF16 };

typedef struct {
    int32_t kind, rows, columns;
    const void *data;
    const float *bias; /* [rows], or null */
} Matrix;

typedef struct {
    const float *attention_norm, *mlp_norm; /* [hidden] */
    const float *q_norm, *k_norm;           /* [head_dim], or null */
    Matrix q, k, v, output, gate, up, down;
    void *keys, *values; /* [kv_heads, slots, head_dim] */
    float scale;
    int32_t window;  /* a token sees so many, itself included; 0: all before it */
    int32_t rotates; /* whether queries and keys are turned to their positions */
    int32_t watched; /* whether what its tokens read is noted */
} Layer;

typedef struct {
    int32_t num_layers, hidden, inner, heads, kv_heads, head_dim, vocab;
    int32_t kv_kind, embedding_kind;
    int64_t slots;
    float eps;
    const void *embedding;  /* [vocab, hidden] */
    const float *norm;      /* [hidden] */
    const float *cos, *sin; /* [positions, head_dim / 2] */
    Matrix head;
    const Layer *layers;
} Model;

/* Tokens that lie in consecutive slots of the pool, `start` being the global position of the first. */
typedef struct {
    int32_t slot, length, start, delta;
} Run;

/* Consecutive tokens of a step that see the same runs: all up to their own position. Runs close up from position 0. */
typedef struct {
    int32_t first_token, tokens, first_run, runs;
} Row;

/* What a query paid to some keys: the largest score of it so far, and the sum of e^(score - most) over them. */
typedef struct {
    float most, sum;
} Note;

typedef struct {
    int32_t tokens, rows, wanted;
    int32_t pieces; /* most that a row wants to know its share of attention to; 0: nothing is noted */
    const int32_t *ids, *positions, *slots; /* [tokens] */
    const Row *row;
    const Run *run;
    const int32_t *wanted_tokens; /* [wanted], of which logits are computed */
    float *logits;                /* [wanted, vocab] */
    /* Only if anything is noted: */
    const int32_t *piece; /* [runs], which of its row's pieces each run is part of; negative: none */
    int32_t notes;        /* of a query: as many as its row has runs and stretches, or more */
    Note *note;           /* [tokens, heads, notes], what each run of each stretch is paid; room for one layer */
    float *read;          /* [tokens, pieces], shares of attention are added to it, of all heads and watched layers */
} Step;
