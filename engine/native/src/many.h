/* Attention of many queries over runs of the pool, in bfloat16: what a prefill on a CPU does most.

   Products of pairs of bfloat16 are summed up in float32 by an instruction for it (AVX-512 BF16). Whoever calls sees to
   it that the processor has that; where the compiler can't make use of it, ctx_attend_many is not there. */
#pragma once

#include <stdint.h>

#include "crew.h"

/* Keys and values of one run, of the first KV head, [length, head_dim], and the queries that read it. */
typedef struct {
    const uint16_t *keys, *values;
    const uint16_t *queries; /* [heads, tokens, head_dim], turned for this run */
    int64_t length;
} Span;

typedef struct {
    int32_t heads, kv_heads, tokens, head_dim, spans; /* head_dim is 64 or 128 */
    int64_t head_stride;                              /* numbers from one KV head of the pool to the next */
    float scale;
    const Span *span;
    float *mixed; /* [heads, tokens, head_dim] */
    float *lse;   /* [heads, tokens], natural logarithms */
} Many;

/* Every query sees all keys of all spans. Uses all threads of the crew. */
void ctx_attend_many(Crew *crew, const Many *many);
