/* Attention of a step's tokens over the runs they see, where these lie in the pool.

   The context of a row is cut into stretches, which threads attend to apart; their parts are merged by log-sum-exp
   (FlashDecoding). A run that stands Δ positions from where it was computed is read by queries turned back by Δ. In
   watched layers what each run is paid is noted, where the step asks for it. */
#pragma once

#include "model.h"

/* Where parts lie: per token and query head one for each stretch of the row. */
typedef struct {
    float *most;  /* [MOST_TOKENS, heads, MOST_STRETCHES], the largest score */
    float *sum;   /* the same shape, of e^(score - most) */
    float *mixed; /* [MOST_TOKENS, heads, MOST_STRETCHES, head_dim], of e^(score - most) · value */
} Parts;

/* What one thread needs beside: queries, keys, scores; of the former two half is used where they are taken in pairs. */
typedef struct {
    float *queries; /* [MOST_TOKENS · heads / kv_heads, head_dim] */
    float *keys;    /* [head_dim, KEYS_AT_ONCE] */
    float *scores;  /* [MOST_TOKENS · heads / kv_heads, KEYS_AT_ONCE] */
    int *places;    /* [MOST_TOKENS · heads / kv_heads], where each query's parts lie, from the first one's on */
} AttentionRoom;

enum { KEYS_AT_ONCE = 32 };

/* Into how many stretches a row's context is cut, 1 … MOST_STRETCHES. */
int attention_stretches(const Step *step, const Row *row);

/* Turn a head by the angles of `position`: dim i with dim i + head_dim / 2. */
void attention_rotate(const Model *model, int position, const float *head, float *to);

/* One stretch of a row's context for one KV head. A token's queries [heads, head_dim] stand `stride` numbers behind
   those of the token before; they are not turned yet. */
void attention_stretch(const Model *model, const Layer *layer, const Step *step, const Row *row, int kv_head,
                       int stretch, const float *queries, int stride, Parts *parts, AttentionRoom *room);

/* Attention's output of one token and head, from all stretches of its row; [head_dim]. What was noted becomes
   shares of `read`. */
void attention_merge(const Model *model, const Layer *layer, const Step *step, const Row *row, int token, int head,
                     const Parts *parts, float *to);
