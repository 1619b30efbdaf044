/* Attention of many queries over runs of the pool: what a prefill on a CPU does most.

   Products of pairs of bfloat16 are summed up in float32 by an instruction for it; where it is not there (AVX-512 BF16,
   HAS_PAIRS), only float32 can be attended to. A library without AVX2 has no ctx_attend_many. */
#pragma once

#include <stdint.h>

/* Keys that lie in consecutive slots of the pool, `start` being the global position of the first. They are read by
   queries turned for them, and are part of a piece; negative: of none. */
typedef struct {
    int64_t slot;
    int32_t length, start, turn, piece;
} Span;

/* Consecutive tokens of one sequence, the first of which stands at `position`, with the spans up to the last of them;
   those of a piece stand together. Each token sees what stands before it and itself, within the window if there is
   one. */
typedef struct {
    int32_t heads, kv_heads, tokens, head_dim; /* head_dim is 64 or 128 */
    int32_t spans, pieces;                     /* no pieces: nobody wants to know what they are paid */
    int32_t position, window;                  /* a token sees so many, itself included; 0: all before it */
    int32_t pairs;                             /* numbers are bfloat16 rather than float32 */
    float scale;
    int64_t slots, query_stride;
    const Span *span;
    const void *keys, *values; /* [kv_heads, slots, head_dim] */
    const void *queries;       /* [tokens, heads, head_dim], tokens `query_stride` numbers apart; not turned */
    const void *partners;      /* [tokens, heads, head_dim]: the number that each number of `queries` is turned with */
    const float *cos, *sin;    /* [turns, tokens, head_dim]; null: nothing is turned */
    void *mixed;               /* [tokens, heads, head_dim] */
    float *shares;             /* [pieces, heads, tokens], what each piece is paid; −∞ before */
} Many;

/* OpenMP's GOMP_parallel: so many threads do the work at the same time. */
typedef void (*Parallel)(void (*work)(void *job), void *job, unsigned threads, unsigned flags);

void ctx_attend_many(Parallel parallel, int threads, const Many *many);
