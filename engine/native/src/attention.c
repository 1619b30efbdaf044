#include "attention.h"

#include <math.h>

#include "simd.h"

/* Queries whose sums are kept in registers. */
enum { LEAST_STRETCH = 128, MOST_AT_ONCE = 4 };

static const float NOTHING = -1e30f;

static int smaller(int a, int b) { return a < b ? a : b; }

static int end_of(const Step *step, const Row *row) { return step->positions[row->first_token + row->tokens - 1] + 1; }

static int stretch_length(const Step *step, const Row *row) {
    int share = (end_of(step, row) + MOST_STRETCHES - 1) / MOST_STRETCHES;
    return share > LEAST_STRETCH ? share : LEAST_STRETCH;
}

int attention_stretches(const Step *step, const Row *row) {
    int length = stretch_length(step, row);
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
    float *most, *sum, *mixed; /* of the first query; others lie at the room's places from there */
    AttentionRoom *room;
} Stretch;

static float *part_of(const Stretch *stretch, float *of, int query) { return of + stretch->room->places[query]; }

static float *mixed_of(const Stretch *stretch, int query) {
    return stretch->mixed + (size_t)stretch->room->places[query] * stretch->model->head_dim;
}

/* Whether keys, queries and weights are taken in pairs of bfloat16, half as many as numbers. */
INLINE int in_pairs(const Stretch *stretch) { return HAS_PAIRS && stretch->model->kv_kind == BF16; }

INLINE f32x16 load_kv(const Stretch *stretch, const void *cache, size_t at) {
    return stretch->model->kv_kind == F32 ? load_floats((const float *)cache + at)
                                          : load_bf16((const uint16_t *)cache + at);
}

/* Where the numbers of a slot begin. */
static size_t place_of(const Stretch *stretch, int slot) {
    return ((size_t)stretch->kv_head * stretch->model->slots + slot) * stretch->model->head_dim;
}

/* The columns of sixteen keys from `slot` on, of which `existing` are there: 4 · `units` bytes of each from `at` on. */
INLINE void gather(const Stretch *stretch, int slot, int existing, int at, int units, f32x16 columns[16]) {
    const size_t size = stretch->model->kv_kind == F32 ? sizeof(float) : sizeof(uint16_t);
    for (int key = 0; key < 16; key++) {
        size_t place = place_of(stretch, slot + (key < existing ? key : existing - 1)) + at;
        const char *from = (const char *)stretch->layer->keys + place * size;
        if (units == 16) {
            memcpy(columns + key, from, sizeof *columns);
            continue;
        }
        columns[key] = splat(0);
        memcpy(columns + key, from, 4 * units);
    }
    transpose(columns);
}

/* Keys of `count` slots, dim by dim or pair by pair; what would stand behind the last is of no matter. */
static void load_keys(const Stretch *stretch, int slot, int count) {
    const int dim = stretch->model->head_dim, halves = stretch->model->kv_kind == BF16, pairs = in_pairs(stretch);
    for (int first = 0; first < count; first += 16)
        for (int i = 0; i < dim; i += 16 << halves) {
            const int units = (dim - i) >> halves < 16 ? (dim - i) >> halves : 16;
            float *to = stretch->room->keys + (i >> pairs) * KEYS_AT_ONCE + first;
            f32x16 columns[16];
            gather(stretch, slot + first, count - first, i, units, columns);
            for (int j = 0; j < units; j++) {
                if (pairs || !halves) {
                    store_floats(to + j * KEYS_AT_ONCE, columns[j]);
                    continue;
                }
                /* two neighbouring dims in one number */
                store_floats(to + 2 * j * KEYS_AT_ONCE, (f32x16)((i32x16)columns[j] << 16));
                store_floats(to + (2 * j + 1) * KEYS_AT_ONCE, (f32x16)((i32x16)columns[j] & ~0xffff));
            }
        }
}

/* sums + a number, or both of a pair, times those of a vector */
INLINE f32x16 add_product(f32x16 sums, const float *number, f32x16 vector, const int pair) {
    if (!pair) return sums + *number * vector;
    int32_t both;
    memcpy(&both, number, sizeof both);
    return add_pairs(sums, splat_int(both), (i32x16)vector);
}

/* Scores of KEYS_AT_ONCE keys by `n` queries; those behind the last become NOTHING. n and pairs are constants. */
INLINE void score_some(const Stretch *stretch, int count, int first, const int n, const int pairs) {
    const int dim = stretch->model->head_dim;
    const float scale = stretch->layer->scale, *keys = stretch->room->keys;
    const float *queries = stretch->room->queries + (size_t)first * dim;
    f32x16 sums[MOST_AT_ONCE][2];
    for (int q = 0; q < n; q++) sums[q][0] = sums[q][1] = splat(0);
    for (int i = 0; i < dim >> pairs; i++, keys += KEYS_AT_ONCE) {
        f32x16 left = load_floats(keys), right = load_floats(keys + 16);
        for (int q = 0; q < n; q++) {
            sums[q][0] = add_product(sums[q][0], queries + q * dim + i, left, pairs);
            sums[q][1] = add_product(sums[q][1], queries + q * dim + i, right, pairs);
        }
    }
    for (int q = 0; q < n; q++) {
        float *scores = stretch->room->scores + (first + q) * KEYS_AT_ONCE;
        store_floats(scores, sums[q][0] * scale);
        store_floats(scores + 16, sums[q][1] * scale);
        for (int key = count; key < KEYS_AT_ONCE; key++) scores[key] = NOTHING;
    }
}

/* Scores of keys that a token may not see become NOTHING; `start` is the position of the first key. */
static void hide(const Stretch *stretch, int start, int count) {
    const int window = stretch->layer->window;
    for (int query = 0; query < stretch->queries; query++) {
        int position = stretch->step->positions[stretch->row->first_token + query / stretch->group];
        int first = window && position - window + 1 > start ? position - window + 1 - start : 0;
        int last = position - start;
        float *scores = stretch->room->scores + query * KEYS_AT_ONCE;
        for (int key = 0; key < count; key++)
            if (key < first || key > last) scores[key] = NOTHING;
    }
}

/* Scores become e^(score - most), where `most` now counts these keys, too; what was summed up before is scaled. */
static void weigh(const Stretch *stretch) {
    const int dim = stretch->model->head_dim;
    for (int query = 0; query < stretch->queries; query++) {
        float *scores = stretch->room->scores + query * KEYS_AT_ONCE;
        float *most = part_of(stretch, stretch->most, query), *sum = part_of(stretch, stretch->sum, query);
        float *mixed = mixed_of(stretch, query);
        float highest = largest_of(larger(splat(*most), larger(load_floats(scores), load_floats(scores + 16))));
        float keep = highest == *most ? 1 : exponential(splat(*most - highest))[0];
        f32x16 total = splat(0);
        for (int key = 0; key < KEYS_AT_ONCE; key += 16) {
            f32x16 part = load_floats(scores + key), weights = exponential(part - highest);
            /* where nothing is seen yet, NOTHING is the highest score */
            weights = (f32x16)((i32x16)weights & (part > NOTHING / 2));
            if (in_pairs(stretch))
                store_bf16((uint16_t *)scores + key, weights);
            else
                store_floats(scores + key, weights);
            total += weights;
        }
        *sum = *sum * keep + sum_of(total);
        *most = highest;
        for (int i = 0; keep != 1 && i < dim; i++) mixed[i] *= keep;
    }
}

/* Sixteen numbers of a value, or pairs of those of two values; behind the last there are zeros. */
INLINE f32x16 load_values(const Stretch *stretch, int slot, int end, int from, const int pair) {
    const size_t at = place_of(stretch, slot) + from;
    if (!pair) return load_kv(stretch, stretch->layer->values, at);
    const uint16_t *low = (const uint16_t *)stretch->layer->values + at;
    i32x16 both = load_u16(low);
    if (slot + 1 < end) both |= load_u16(low + stretch->model->head_dim) << 16;
    return (f32x16)both;
}

/* Add to what `n` queries mix 16 · `width` numbers of the values; n, width and pairs are constants. */
INLINE void mix_part(const Stretch *stretch, int slot, int end, int first, const int n, int from, const int width,
                     const int pairs) {
    const float *weights = stretch->room->scores + first * KEYS_AT_ONCE;
    f32x16 mixed[MOST_AT_ONCE][4];
    for (int q = 0; q < n; q++)
        for (int w = 0; w < width; w++) mixed[q][w] = load_floats(mixed_of(stretch, first + q) + from + 16 * w);
    for (int i = 0; slot < end; i++, slot += 1 << pairs)
        for (int w = 0; w < width; w++) {
            f32x16 values = load_values(stretch, slot, end, from + 16 * w, pairs);
            for (int q = 0; q < n; q++)
                mixed[q][w] = add_product(mixed[q][w], weights + q * KEYS_AT_ONCE + i, values, pairs);
        }
    for (int q = 0; q < n; q++)
        for (int w = 0; w < width; w++) store_floats(mixed_of(stretch, first + q) + from + 16 * w, mixed[q][w]);
}

INLINE void mix_some(const Stretch *stretch, int slot, int end, int first, const int n, const int pairs) {
    int from = 0;
    for (; stretch->model->head_dim - from >= 64; from += 64) mix_part(stretch, slot, end, first, n, from, 4, pairs);
    for (; from < stretch->model->head_dim; from += 16) mix_part(stretch, slot, end, first, n, from, 1, pairs);
}

/* Loops over so many queries at once stay in registers if the number is known. */
#define FOR_SOME_QUERIES(stretch, call, pairs)                                                                    for (int first = 0; first < (stretch)->queries; first += MOST_AT_ONCE) switch ((stretch)->queries - first) {         case 1: call(1, pairs); break;                                                                               case 2: call(2, pairs); break;                                                                               case 3: call(3, pairs); break;                                                                               default: call(4, pairs);                                                                                     }

static void score_queries(const Stretch *stretch, int count) {
#define SCORE(n, pairs) score_some(stretch, count, first, n, pairs)
    if (in_pairs(stretch))
        FOR_SOME_QUERIES(stretch, SCORE, 1)
    else
        FOR_SOME_QUERIES(stretch, SCORE, 0)
}

static void mix_values(const Stretch *stretch, int slot, int count) {
#define MIX(n, pairs) mix_some(stretch, slot, slot + count, first, n, pairs)
    if (in_pairs(stretch))
        FOR_SOME_QUERIES(stretch, MIX, 1)
    else
        FOR_SOME_QUERIES(stretch, MIX, 0)
}

/* `count` keys and values from `slot` on, the first standing at `start` */
static void attend_to(const Stretch *stretch, int slot, int start, int count) {
    const int last = stretch->step->positions[stretch->row->first_token];
    load_keys(stretch, slot, count);
    score_queries(stretch, count);
    if (stretch->layer->window || start + count - 1 > last) hide(stretch, start, count);
    weigh(stretch);
    mix_values(stretch, slot, count);
}

static void turn_queries(const Stretch *stretch, int delta, const float *queries, int stride) {
    const Model *model = stretch->model;
    for (int query = 0; query < stretch->queries; query++) {
        int token = stretch->row->first_token + query / stretch->group;
        int head = stretch->kv_head * stretch->group + query % stretch->group;
        const float *from = queries + (size_t)token * stride + (size_t)head * model->head_dim;
        float *to = stretch->room->queries + (size_t)query * model->head_dim;
        if (stretch->layer->rotates)
            attention_rotate(model, stretch->step->positions[token] - delta, from, to);
        else
            memcpy(to, from, model->head_dim * sizeof(float));
        for (int i = 0; in_pairs(stretch) && i < model->head_dim; i += 16)
            store_bf16((uint16_t *)to + i, load_floats(to + i)); /* never beyond what was read */
    }
}

/* A query's notes. That of run r in stretch s stands at r + s, which is another place for each two that meet. */
static Note *notes_of(const Model *model, const Step *step, int token, int head) {
    return step->note + ((size_t)token * model->heads + head) * step->notes;
}

static Note *note_of(const Stretch *stretch, int query, int at) {
    const int token = stretch->row->first_token + query / stretch->group;
    const int head = stretch->kv_head * stretch->group + query % stretch->group;
    return notes_of(stretch->model, stretch->step, token, head) + at;
}

/* From here on what is paid is summed up anew; until `end_note` the note keeps what was paid before. */
static void begin_note(const Stretch *stretch, int at) {
    for (int query = 0; query < stretch->queries; query++) {
        float *sum = part_of(stretch, stretch->sum, query);
        *note_of(stretch, query, at) = (Note){*part_of(stretch, stretch->most, query), *sum};
        *sum = 0;
    }
}

static void end_note(const Stretch *stretch, int at) {
    for (int query = 0; query < stretch->queries; query++) {
        float most = *part_of(stretch, stretch->most, query), *sum = part_of(stretch, stretch->sum, query);
        Note *note = note_of(stretch, query, at), before = *note;
        *note = (Note){most, *sum};
        *sum += before.sum * exponential(splat(before.most - most))[0];
    }
}

static int is_noted(const Layer *layer, const Step *step) { return step->pieces && layer->watched; }

static void begin(const Stretch *stretch) {
    const int dim = stretch->model->head_dim, heads = stretch->model->heads, group = stretch->group;
    for (int query = 0; query < stretch->queries; query++) {
        stretch->room->places[query] = (query / group * heads + query % group) * MOST_STRETCHES;
        float *most = part_of(stretch, stretch->most, query);
        *most = NOTHING;
        *part_of(stretch, stretch->sum, query) = 0;
        memset(mixed_of(stretch, query), 0, dim * sizeof(float));
    }
}

void attention_stretch(const Model *model, const Layer *layer, const Step *step, const Row *row, int kv_head,
                       int number, const float *queries, int stride, Parts *parts, AttentionRoom *room) {
    const int group = model->heads / model->kv_heads, length = stretch_length(step, row);
    const size_t part = ((size_t)row->first_token * model->heads + kv_head * group) * MOST_STRETCHES + number;
    Stretch stretch = {model, layer, step, row, kv_head, group, group * row->tokens,
                       parts->most + part, parts->sum + part, parts->mixed + part * model->head_dim, room};
    const int from = number * length, to = smaller(from + length, end_of(step, row));
    const int unseen = layer->window ? step->positions[row->first_token] - layer->window + 1 : 0;
    begin(&stretch);
    int turned = 0, delta = 0;
    for (int r = 0; r < row->runs; r++) {
        const Run *run = step->run + row->first_run + r;
        int first = run->start > from ? run->start : from;
        const int end = smaller(run->start + run->length, to);
        if (first >= end) continue;
        if (is_noted(layer, step)) begin_note(&stretch, r + number);
        if (first < unseen) first = unseen;
        if (first < end && (!turned || delta != run->delta)) {
            turn_queries(&stretch, run->delta, queries, stride);
            turned = 1, delta = run->delta;
        }
        for (; first < end; first += KEYS_AT_ONCE)
            attend_to(&stretch, run->slot + first - run->start, first, smaller(end - first, KEYS_AT_ONCE));
        if (is_noted(layer, step)) end_note(&stretch, r + number);
    }
}

/* Add to `read` what each run was paid; `most` and `total` are those of all keys. */
static void add_read(const Model *model, const Step *step, const Row *row, int token, int head, float most,
                     float total) {
    const Note *notes = notes_of(model, step, token, head);
    const int length = stretch_length(step, row);
    for (int r = 0; r < row->runs; r++) {
        const Run *run = step->run + row->first_run + r;
        const int piece = step->piece[row->first_run + r];
        if (piece < 0) continue;
        for (int s = run->start / length; s <= (run->start + run->length - 1) / length; s++) {
            float paid = exponential(splat(notes[r + s].most - most))[0] * notes[r + s].sum;
            step->read[(size_t)token * step->pieces + piece] += paid / total;
        }
    }
}

void attention_merge(const Model *model, const Layer *layer, const Step *step, const Row *row, int token, int head,
                     const Parts *parts, float *to) {
    const int stretches = attention_stretches(step, row), dim = model->head_dim;
    const size_t first = ((size_t)token * model->heads + head) * MOST_STRETCHES;
    float highest = NOTHING, total = 0;
    for (int stretch = 0; stretch < stretches; stretch++) highest = fmaxf(highest, parts->most[first + stretch]);
    memset(to, 0, dim * sizeof(float));
    for (int stretch = 0; stretch < stretches; stretch++) {
        float weight = exponential(splat(parts->most[first + stretch] - highest))[0];
        total += weight * parts->sum[first + stretch];
        const float *mixed = parts->mixed + (first + stretch) * dim;
        for (int i = 0; i < dim; i++) to[i] += weight * mixed[i];
    }
    for (int i = 0; i < dim; i++) to[i] /= total;
    if (is_noted(layer, step)) add_read(model, step, row, token, head, highest, total);
}
