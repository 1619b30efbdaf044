#include "attention.h"

#include <math.h>

#include "simd.h"

/* Queries whose sums are kept in registers. */
enum { LEAST_PIECE = 128, MOST_AT_ONCE = 4 };

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

static float *mixed_of(const Piece *piece, int query) {
    return piece->mixed + (part_of(piece, piece->most, query) - piece->most) * piece->model->head_dim;
}

INLINE f32x16 load_kv(const Piece *piece, const void *cache, size_t at) {
    return piece->model->kv_kind == F32 ? load_floats((const float *)cache + at)
                                        : load_bf16((const uint16_t *)cache + at);
}

/* Where the numbers of a slot begin. */
static size_t place_of(const Piece *piece, int slot) {
    return ((size_t)piece->kv_head * piece->model->slots + slot) * piece->model->head_dim;
}

/* The columns of sixteen keys from `slot` on, of which `existing` are there: 4 · `units` bytes of each from `at` on. */
INLINE void gather(const Piece *piece, int slot, int existing, int at, int units, f32x16 columns[16]) {
    const size_t size = piece->model->kv_kind == F32 ? sizeof(float) : sizeof(uint16_t);
    for (int key = 0; key < 16; key++) {
        size_t place = place_of(piece, slot + (key < existing ? key : existing - 1)) + at;
        const char *from = (const char *)piece->layer->keys + place * size;
        if (units == 16) {
            memcpy(columns + key, from, sizeof *columns);
            continue;
        }
        columns[key] = splat(0);
        memcpy(columns + key, from, 4 * units);
    }
    transpose(columns);
}

/* Keys of `count` slots, dim by dim; what would stand behind the last is of no matter. */
static void load_keys(const Piece *piece, int slot, int count) {
    const int dim = piece->model->head_dim, pairs = piece->model->kv_kind == BF16;
    for (int first = 0; first < count; first += 16)
        for (int i = 0; i < dim; i += 16 << pairs) {
            const int units = (dim - i) >> pairs < 16 ? (dim - i) >> pairs : 16;
            float *to = piece->room->keys + i * KEYS_AT_ONCE + first;
            f32x16 columns[16];
            gather(piece, slot + first, count - first, i, units, columns);
            for (int j = 0; j < units; j++) {
                if (!pairs) {
                    store_floats(to + j * KEYS_AT_ONCE, columns[j]);
                    continue;
                }
                /* two neighbouring dims in one number */
                store_floats(to + 2 * j * KEYS_AT_ONCE, (f32x16)((i32x16)columns[j] << 16));
                store_floats(to + (2 * j + 1) * KEYS_AT_ONCE, (f32x16)((i32x16)columns[j] & ~0xffff));
            }
        }
}

/* Scores of KEYS_AT_ONCE keys by `n` queries, a constant; those behind the last become NOTHING. */
INLINE void score_some(const Piece *piece, int count, int first, const int n) {
    const int dim = piece->model->head_dim;
    const float scale = piece->layer->scale, *keys = piece->room->keys;
    const float *queries = piece->room->queries + (size_t)first * dim;
    f32x16 sums[MOST_AT_ONCE][2];
    for (int q = 0; q < n; q++) sums[q][0] = sums[q][1] = splat(0);
    for (int i = 0; i < dim; i++, keys += KEYS_AT_ONCE) {
        f32x16 left = load_floats(keys), right = load_floats(keys + 16);
        for (int q = 0; q < n; q++) {
            sums[q][0] += queries[q * dim + i] * left;
            sums[q][1] += queries[q * dim + i] * right;
        }
    }
    for (int q = 0; q < n; q++) {
        float *scores = piece->room->scores + (first + q) * KEYS_AT_ONCE;
        store_floats(scores, sums[q][0] * scale);
        store_floats(scores + 16, sums[q][1] * scale);
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
static void weigh(const Piece *piece) {
    const int dim = piece->model->head_dim;
    for (int query = 0; query < piece->queries; query++) {
        float *scores = piece->room->scores + query * KEYS_AT_ONCE;
        float *most = part_of(piece, piece->most, query), *sum = part_of(piece, piece->sum, query);
        float *mixed = mixed_of(piece, query);
        float highest = largest_of(larger(splat(*most), larger(load_floats(scores), load_floats(scores + 16))));
        float keep = highest == *most ? 1 : exponential(splat(*most - highest))[0];
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
        for (int i = 0; keep != 1 && i < dim; i++) mixed[i] *= keep;
    }
}

/* Add to what `n` queries mix 16 · `width` numbers of the values; n and width are constants. */
INLINE void mix_part(const Piece *piece, int slot, int count, int first, const int n, int from, const int width) {
    const float *weights = piece->room->scores + first * KEYS_AT_ONCE;
    f32x16 mixed[MOST_AT_ONCE][4];
    for (int q = 0; q < n; q++)
        for (int w = 0; w < width; w++) mixed[q][w] = load_floats(mixed_of(piece, first + q) + from + 16 * w);
    for (int key = 0; key < count; key++)
        for (int w = 0; w < width; w++) {
            f32x16 values = load_kv(piece, piece->layer->values, place_of(piece, slot + key) + from + 16 * w);
            for (int q = 0; q < n; q++) mixed[q][w] += weights[q * KEYS_AT_ONCE + key] * values;
        }
    for (int q = 0; q < n; q++)
        for (int w = 0; w < width; w++) store_floats(mixed_of(piece, first + q) + from + 16 * w, mixed[q][w]);
}

INLINE void mix_some(const Piece *piece, int slot, int count, int first, const int n) {
    int from = 0;
    for (; piece->model->head_dim - from >= 64; from += 64) mix_part(piece, slot, count, first, n, from, 4);
    for (; from < piece->model->head_dim; from += 16) mix_part(piece, slot, count, first, n, from, 1);
}

/* Loops over so many queries at once stay in registers if the number is known. */
#define FOR_SOME_QUERIES(piece, call)                                                                       \
    for (int first = 0; first < (piece)->queries; first += MOST_AT_ONCE) switch ((piece)->queries - first) { \
        case 1: call(1); break;                                                                              \
        case 2: call(2); break;                                                                              \
        case 3: call(3); break;                                                                              \
        default: call(4);                                                                                    \
        }

static void score_queries(const Piece *piece, int count) {
#define SCORE(n) score_some(piece, count, first, n)
    FOR_SOME_QUERIES(piece, SCORE)
}

static void mix_values(const Piece *piece, int slot, int count) {
#define MIX(n) mix_some(piece, slot, count, first, n)
    FOR_SOME_QUERIES(piece, MIX)
}

/* `count` keys and values from `slot` on, the first standing at `start` */
static void attend_to(const Piece *piece, int slot, int start, int count) {
    const int last = piece->step->positions[piece->row->first_token];
    load_keys(piece, slot, count);
    score_queries(piece, count);
    if (piece->layer->window || start + count - 1 > last) hide(piece, start, count);
    weigh(piece);
    mix_values(piece, slot, count);
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
        memset(mixed_of(piece, query), 0, dim * sizeof(float));
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
