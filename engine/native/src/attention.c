#include "attention.h"

#include <math.h>

#include "simd.h"

enum { LEAST_PIECE = 128 };

static const float NOTHING = -1e30f;

static int end_of(const Step *step, const Row *row) { return step->positions[row->first_token + row->tokens - 1] + 1; }

static int piece_length(const Step *step, const Row *row) {
    int share = (end_of(step, row) + MOST_PIECES - 1) / MOST_PIECES;
    return share > LEAST_PIECE ? share : LEAST_PIECE;
}

int attention_pieces(const Step *step, const Row *row) {
    int length = piece_length(step, row);
    return (end_of(step, row) + length - 1) / length;
}

void attention_rotate(const Model *model, int position, const float *head, float *to) {
    const int half = model->head_dim / 2;
    const float *cos = model->cos + (size_t)position * half, *sin = model->sin + (size_t)position * half;
    for (int i = 0; i < half; i++) {
        float left = head[i], right = head[i + half];
        to[i] = left * cos[i] - right * sin[i];
        to[i + half] = right * cos[i] + left * sin[i];
    }
}

typedef struct {
    const Model *model;
    const Layer *layer;
    const Step *step;
    const Row *row;
    int kv_head, group, queries;
    float *most, *sum, *mixed; /* of the first query; others follow at the strides below */
    int token_stride, head_stride;
    AttentionRoom *room;
} Piece;

static float *part_of(const Piece *piece, float *of, int query) {
    return of + (size_t)(query / piece->group) * piece->token_stride + (query % piece->group) * piece->head_stride;
}

INLINE f32x16 load_kv(const Piece *piece, const void *cache, size_t at) {
    return piece->model->kv_kind == F32 ? load_floats((const float *)cache + at)
                                        : load_bf16((const uint16_t *)cache + at);
}

/* Where the numbers of a slot begin. */
static size_t place_of(const Piece *piece, int slot) {
    return ((size_t)piece->kv_head * piece->model->slots + slot) * piece->model->head_dim;
}

/* Keys of `count` slots, dim by dim; what would stand behind the last is of no matter. */
static void load_keys(const Piece *piece, int slot, int count) {
    const int dim = piece->model->head_dim;
    for (int first = 0; first < count; first += 16)
        for (int i = 0; i < dim; i += 16) {
            f32x16 keys[16];
            for (int key = 0; key < 16; key++) {
                int existing = first + key < count ? first + key : count - 1;
                keys[key] = load_kv(piece, piece->layer->keys, place_of(piece, slot + existing) + i);
            }
            transpose(keys);
            for (int j = 0; j < 16; j++) store_floats(piece->room->keys + (i + j) * KEYS_AT_ONCE + first, keys[j]);
        }
}

static void load_values(const Piece *piece, int slot, int count) {
    const size_t begin = place_of(piece, slot);
    for (int i = 0; i < count * piece->model->head_dim; i += 16)
        store_floats(piece->room->keys + i, load_kv(piece, piece->layer->values, begin + i));
}

/* Scores of sixteen or of twice as many keys; those behind the last become NOTHING. */
INLINE void score_queries(const Piece *piece, int count, const int dim) {
    const float scale = piece->layer->scale, *keys = piece->room->keys;
    for (int query = 0; query < piece->queries; query++) {
        const float *q = piece->room->queries + (size_t)query * dim;
        float *scores = piece->room->scores + query * KEYS_AT_ONCE;
        f32x16 sums[2][2] = {{splat(0), splat(0)}, {splat(0), splat(0)}};
        for (int i = 0; i < dim; i += 2)
            for (int half = 0; half < 2; half++)
                for (int odd = 0; odd < 2; odd++)
                    sums[half][odd] += q[i + odd] * load_floats(keys + (i + odd) * KEYS_AT_ONCE + 16 * half);
        for (int half = 0; half < 2; half++) store_floats(scores + 16 * half, (sums[half][0] + sums[half][1]) * scale);
        for (int key = count; key < KEYS_AT_ONCE; key++) scores[key] = NOTHING;
    }
}

/* Scores of keys that a token may not see become NOTHING; `start` is the position of the first key. */
static void hide(const Piece *piece, int start, int count) {
    const int window = piece->layer->window;
    for (int query = 0; query < piece->queries; query++) {
        int position = piece->step->positions[piece->row->first_token + query / piece->group];
        int first = window && position - window + 1 > start ? position - window + 1 - start : 0;
        int last = position - start;
        float *scores = piece->room->scores + query * KEYS_AT_ONCE;
        for (int key = 0; key < count; key++)
            if (key < first || key > last) scores[key] = NOTHING;
    }
}

/* Scores become e^(score - most), where `most` now counts these keys, too; what was summed up before is scaled. */
static void weigh(const Piece *piece, int count) {
    const int dim = piece->model->head_dim;
    for (int query = 0; query < piece->queries; query++) {
        float *scores = piece->room->scores + query * KEYS_AT_ONCE;
        float *most = part_of(piece, piece->most, query), *sum = part_of(piece, piece->sum, query);
        float *mixed = piece->mixed + (part_of(piece, piece->most, query) - piece->most) * dim;
        float highest = *most;
        for (int key = 0; key < count; key++) highest = scores[key] > highest ? scores[key] : highest;
        float keep = exponential(splat(*most - highest))[0];
        f32x16 total = splat(0);
        for (int key = 0; key < KEYS_AT_ONCE; key += 16) {
            f32x16 part = load_floats(scores + key), weights = exponential(part - highest);
            /* where nothing is seen yet, NOTHING is the highest score */
            weights = (f32x16)((i32x16)weights & (part > NOTHING / 2));
            store_floats(scores + key, weights);
            total += weights;
        }
        *sum = *sum * keep + sum_of(total);
        *most = highest;
        for (int i = 0; i < dim; i++) mixed[i] *= keep;
    }
}

INLINE void mix_values(const Piece *piece, int count, const int dim) {
    const float *values = piece->room->keys;
    for (int query = 0; query < piece->queries; query++) {
        const float *weights = piece->room->scores + query * KEYS_AT_ONCE;
        float *mixed = piece->mixed + (part_of(piece, piece->most, query) - piece->most) * dim;
        for (int i = 0; i < dim; i += 16) {
            f32x16 total = load_floats(mixed + i);
            for (int key = 0; key < count; key++) total += weights[key] * load_floats(values + key * dim + i);
            store_floats(mixed + i, total);
        }
    }
}

/* `count` keys and values from `slot` on, the first standing at `start` */
static void attend_to(const Piece *piece, int slot, int start, int count) {
    const int dim = piece->model->head_dim;
    const int last = piece->step->positions[piece->row->first_token];
    load_keys(piece, slot, count);
    switch (dim) { /* loops of a known length are unrolled */
    case 64: score_queries(piece, count, 64); break;
    case 128: score_queries(piece, count, 128); break;
    default: score_queries(piece, count, dim);
    }
    if (piece->layer->window || start + count - 1 > last) hide(piece, start, count);
    weigh(piece, count);
    load_values(piece, slot, count);
    switch (dim) {
    case 64: mix_values(piece, count, 64); break;
    case 128: mix_values(piece, count, 128); break;
    default: mix_values(piece, count, dim);
    }
}

static void turn_queries(const Piece *piece, int delta, const float *queries, int stride) {
    const Model *model = piece->model;
    for (int query = 0; query < piece->queries; query++) {
        int token = piece->row->first_token + query / piece->group;
        int head = piece->kv_head * piece->group + query % piece->group;
        const float *from = queries + (size_t)token * stride + (size_t)head * model->head_dim;
        float *to = piece->room->queries + (size_t)query * model->head_dim;
        if (piece->layer->rotates)
            attention_rotate(model, piece->step->positions[token] - delta, from, to);
        else
            memcpy(to, from, model->head_dim * sizeof(float));
    }
}

static void begin(const Piece *piece) {
    const int dim = piece->model->head_dim;
    for (int query = 0; query < piece->queries; query++) {
        float *most = part_of(piece, piece->most, query);
        *most = NOTHING;
        *part_of(piece, piece->sum, query) = 0;
        memset(piece->mixed + (most - piece->most) * dim, 0, dim * sizeof(float));
    }
}

void attention_piece(const Model *model, const Layer *layer, const Step *step, const Row *row, int kv_head, int number,
                     const float *queries, int stride, Parts *parts, AttentionRoom *room) {
    const int group = model->heads / model->kv_heads, length = piece_length(step, row);
    const size_t part = ((size_t)row->first_token * model->heads + kv_head * group) * MOST_PIECES + number;
    Piece piece = {model, layer, step, row, kv_head, group, group * row->tokens,
                   parts->most + part, parts->sum + part, parts->mixed + part * model->head_dim,
                   model->heads * MOST_PIECES, MOST_PIECES, room};
    int from = number * length, to = from + length < end_of(step, row) ? from + length : end_of(step, row);
    int unseen = layer->window ? step->positions[row->first_token] - layer->window + 1 : 0;
    if (from < unseen) from = unseen;
    begin(&piece);
    int turned = 0, delta = 0;
    for (int r = row->first_run; r < row->first_run + row->runs; r++) {
        const Run *run = step->run + r;
        int first = run->start > from ? run->start : from;
        int end = run->start + run->length < to ? run->start + run->length : to;
        if (first >= end) continue;
        if (!turned || delta != run->delta) turn_queries(&piece, run->delta, queries, stride);
        turned = 1, delta = run->delta;
        for (; first < end; first += KEYS_AT_ONCE) {
            int count = end - first < KEYS_AT_ONCE ? end - first : KEYS_AT_ONCE;
            attend_to(&piece, run->slot + first - run->start, first, count);
        }
    }
}

void attention_merge(const Model *model, const Step *step, const Row *row, int token, int head, const Parts *parts,
                     float *to) {
    const int pieces = attention_pieces(step, row), dim = model->head_dim;
    const size_t first = ((size_t)token * model->heads + head) * MOST_PIECES;
    float highest = NOTHING, total = 0;
    for (int piece = 0; piece < pieces; piece++) highest = fmaxf(highest, parts->most[first + piece]);
    memset(to, 0, dim * sizeof(float));
    for (int piece = 0; piece < pieces; piece++) {
        float weight = exponential(splat(parts->most[first + piece] - highest))[0];
        total += weight * parts->sum[first + piece];
        const float *mixed = parts->mixed + (first + piece) * dim;
        for (int i = 0; i < dim; i++) to[i] += weight * mixed[i];
    }
    for (int i = 0; i < dim; i++) to[i] /= total;
}
