#include "many.h"

#include "simd.h"

#if defined(__AVX512BF16__)

#include <math.h>
#include <stdatomic.h>

/* Most queries of a task, whose sums stay near while the keys pass by, and the fewest worth laying keys out for; most
   keys that are laid out at a time; queries whose sums are in registers. */
enum { QUERIES = 192, FEWEST = 48, KEYS = 64, AT_ONCE = 6, VECTORS = KEYS / 16, WIDEST = 128 };

static const float NOTHING = -1e30f, LOG2_E = 1.44269504f;

typedef struct {
    const Many *many;
    int threads;
    atomic_int next_task;
} Job;

/* What one thread works on: some queries of one KV head. Pairs of bfloat16 are one number of 32 bits. */
typedef struct {
    uint32_t keys[WIDEST / 2][KEYS] __attribute__((aligned(64)));   /* a pair of dims of each key */
    uint32_t values[KEYS / 2][WIDEST] __attribute__((aligned(64))); /* each dim of a pair of keys */
    uint32_t weights[AT_ONCE][KEYS / 2] __attribute__((aligned(64)));
    uint16_t turned[QUERIES][WIDEST] __attribute__((aligned(64)));
    float mixed[QUERIES][WIDEST] __attribute__((aligned(64)));
    float most[QUERIES], sum[QUERIES]; /* the sum is to be multiplied by 2^most */
    float most_before[QUERIES], sum_before[QUERIES]; /* without the piece that is being attended to */
    int kv_head, queries;
    int token[QUERIES], head[QUERIES];
} Room;

/* Some of the keys of a span, which are laid out; the first stands at position `start`. */
typedef struct {
    int start, count;
} Keys;

/* What stands in for keys and values behind the last. */
static const uint16_t nothing[WIDEST];

static const uint16_t *row_of(const uint16_t *rows, int row, int count, int dim) {
    return row < count ? rows + (size_t)row * dim : nothing;
}

static void lay_keys(const uint16_t *keys, int count, int dim, Room *room) {
    for (int key = 0; key < count; key += 16)
        for (int i = 0; i < dim; i += 32) {
            f32x16 pairs[16];
            for (int j = 0; j < 16; j++) memcpy(pairs + j, row_of(keys, key + j, count, dim) + i, sizeof pairs[j]);
            transpose(pairs);
            for (int j = 0; j < 16; j++) memcpy(room->keys[i / 2 + j] + key, pairs + j, sizeof pairs[j]);
        }
}

static void lay_values(const uint16_t *values, int count, int dim, Room *room) {
    for (int pair = 0; 2 * pair < count; pair++) {
        const uint16_t *low = row_of(values, 2 * pair, count, dim), *high = row_of(values, 2 * pair + 1, count, dim);
        for (int i = 0; i < dim; i++) room->values[pair][i] = low[i] | (uint32_t)high[i] << 16;
    }
}

static void turn_queries(const Many *many, int turn, Room *room) {
    const int dim = many->head_dim;
    for (int query = 0; query < room->queries; query++) {
        const size_t token = room->token[query], head = room->head[query];
        const uint16_t *from = many->queries + token * many->query_stride + head * dim;
        if (!many->cos) {
            memcpy(room->turned[query], from, dim * sizeof *from);
            continue;
        }
        const uint16_t *partners = many->partners + (token * many->heads + head) * dim;
        const size_t at = ((size_t)turn * many->tokens + token) * dim;
        for (int i = 0; i < dim; i += 16) {
            f32x16 turned = load_bf16(from + i) * load_floats(many->cos + at + i);
            turned += load_bf16(partners + i) * load_floats(many->sin + at + i);
            store_bf16(room->turned[query] + i, turned);
        }
    }
}

/* Add to sums the products of rows of `count` pairs and of 16 · `vectors` columns, which stand `stride` numbers apart. */
INLINE void add_products(f32x16 sums[AT_ONCE][VECTORS], const char *const rows[AT_ONCE], const uint32_t *columns,
                              int stride, int count, const int vectors) {
    f32x16 total[AT_ONCE][VECTORS]; /* in registers, which what the caller has might not be */
    memcpy(total, sums, sizeof total);
    for (int pair = 0; pair < count; pair++) {
        __m512bh column[VECTORS];
        for (int j = 0; j < vectors; j++) column[j] = (__m512bh)_mm512_load_si512(columns + pair * stride + 16 * j);
        for (int i = 0; i < AT_ONCE; i++) {
            int both;
            memcpy(&both, rows[i] + 4 * pair, sizeof both);
            __m512bh row = (__m512bh)_mm512_set1_epi32(both);
            for (int j = 0; j < vectors; j++)
                total[i][j] = (f32x16)_mm512_dpbf16_ps((__m512)total[i][j], row, column[j]);
        }
    }
    memcpy(sums, total, sizeof total);
}

/* 2^x to one part in 20,000, where rounding to bfloat16 loses one in 500; 0 for what is far below 0. */
INLINE f32x16 power_of_two(f32x16 x) {
    f32x16 whole = (f32x16)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    f32x16 rest = x - whole, power = splat(9.61793571e-3f);
    power = power * rest + 5.55036440e-2f;
    power = power * rest + 2.40226510e-1f;
    power = power * rest + 6.93147182e-1f;
    power = power * rest + 1.0f;
    return (f32x16)_mm512_scalef_ps((__m512)power, (__m512)whole);
}

/* Scores of the keys from `first` to `end` become 2^(scale · score - most) as bfloat16, all others 0; returns by what
   earlier sums of this query are to be multiplied. */
INLINE float weigh(f32x16 *scores, float scale, int first, int end, float *most, float *sum, uint32_t *weights,
                        const int vectors) {
    if (first >= end) {
        memset(weights, 0, KEYS / 2 * sizeof *weights);
        return 1;
    }
    const uint64_t seen = ~UINT64_C(0) >> (64 - end) & ~UINT64_C(0) << first;
    f32x16 highest = splat(NOTHING);
    for (int i = 0; i < vectors; i++) {
        scores[i] = (f32x16)_mm512_mask_blend_ps(seen >> 16 * i, (__m512)splat(NOTHING), (__m512)scores[i]);
        highest = larger(highest, scores[i]);
    }
    float now = fmaxf(*most, scale * _mm512_reduce_max_ps((__m512)highest));
    float keep = power_of_two(splat(*most - now))[0];
    f32x16 total = splat(0);
    for (int i = 0; i < vectors; i++) total += scores[i] = power_of_two(scores[i] * scale - now);
    for (int i = 0; i < vectors; i += 2) {
        f32x16 odd = i + 1 < vectors ? scores[i + 1] : splat(0);
        __m512bh both = _mm512_cvtne2ps_pbh((__m512)odd, (__m512)scores[i]);
        _mm512_store_si512(weights + 8 * i, (__m512i)both);
    }
    *sum = *sum * keep + _mm512_reduce_add_ps((__m512)total);
    *most = now;
    return keep;
}

/* The first key that a query sees and the one behind the last, counted from the first that is laid out. */
static int first_seen(const Many *many, const Keys *keys, int token) {
    int first = many->window ? many->position + token - many->window + 1 - keys->start : 0;
    return first > 0 ? first : 0;
}

static int end_seen(const Many *many, const Keys *keys, int token) {
    int end = many->position + token + 1 - keys->start;
    return end < keys->count ? end : keys->count;
}

/* A few queries over the keys that are laid out; those behind the last query are the last one once more. */
INLINE void attend_some(const Many *many, const Keys *keys, int first, int some, const int dim, const int vectors,
                             Room *room) {
    const char *query[AT_ONCE], *weights[AT_ONCE];
    int begins[AT_ONCE], ends[AT_ONCE], seen = 0;
    for (int i = 0; i < AT_ONCE; i++) {
        const int at = first + (i < some ? i : some - 1);
        query[i] = (const char *)room->turned[at], weights[i] = (const char *)room->weights[i];
        begins[i] = first_seen(many, keys, room->token[at]), ends[i] = end_seen(many, keys, room->token[at]);
        seen |= begins[i] < ends[i];
    }
    if (!seen) return;
    f32x16 sums[AT_ONCE][VECTORS] = {0};
    add_products(sums, query, room->keys[0], KEYS, dim / 2, vectors);
    float keep[AT_ONCE] = {0};
    for (int i = 0; i < AT_ONCE; i++)
        if (i < some)
            keep[i] = weigh(sums[i], LOG2_E * many->scale, begins[i], ends[i], room->most + first + i, room->sum + first + i,
                            room->weights[i], vectors);
    for (int begin = 0; begin < dim; begin += 16 * VECTORS) {
        for (int i = 0; i < AT_ONCE; i++)
            for (int j = 0; j < VECTORS; j++)
                sums[i][j] = load_floats(room->mixed[first + (i < some ? i : some - 1)] + begin + 16 * j) * keep[i];
        add_products(sums, weights, room->values[0] + begin, WIDEST, (keys->count + 1) / 2, VECTORS);
        for (int i = 0; i < AT_ONCE; i++)
            if (i < some)
                for (int j = 0; j < VECTORS; j++) store_floats(room->mixed[first + i] + begin + 16 * j, sums[i][j]);
    }
}

/* Loops of a known length are unrolled. */
INLINE void attend_keys(const Many *many, const Keys *keys, const int dim, Room *room) {
    for (int first = 0; first < room->queries; first += AT_ONCE) {
        const int some = room->queries - first < AT_ONCE ? room->queries - first : AT_ONCE;
        switch ((keys->count + 15) / 16) {
            case 1: attend_some(many, keys, first, some, dim, 1, room); break;
            case 2: attend_some(many, keys, first, some, dim, 2, room); break;
            case 3: attend_some(many, keys, first, some, dim, 3, room); break;
            default: attend_some(many, keys, first, some, dim, 4, room);
        }
    }
}

/* From here on what is paid is summed up anew, for the piece that begins. */
static void begin_piece(Room *room) {
    memcpy(room->most_before, room->most, sizeof room->most);
    memcpy(room->sum_before, room->sum, sizeof room->sum);
    memset(room->sum, 0, sizeof room->sum);
}

static float *share_of(const Many *many, const Room *room, int piece, int query) {
    return many->shares + ((size_t)piece * many->heads + room->head[query]) * many->tokens + room->token[query];
}

/* Until all is attended to, a piece's share is the binary logarithm of what it is paid. */
static void end_piece(const Many *many, int piece, Room *room) {
    for (int i = 0; i < room->queries; i++) {
        *share_of(many, room, piece, i) = room->most[i] + log2f(room->sum[i]);
        room->sum[i] += room->sum_before[i] * power_of_two(splat(room->most_before[i] - room->most[i]))[0];
    }
}

INLINE void attend_span(const Many *many, const Span *span, const int dim, Room *room) {
    for (int key = 0; key < span->length; key += KEYS) {
        const Keys keys = {span->start + key, span->length - key < KEYS ? span->length - key : KEYS};
        const size_t from = ((size_t)room->kv_head * many->slots + span->slot + key) * dim;
        lay_keys(many->keys + from, keys.count, dim, room);
        lay_values(many->values + from, keys.count, dim, room);
        attend_keys(many, &keys, dim, room);
    }
}

static void attend_spans(const Many *many, Room *room) {
    const int unseen = many->window ? many->position - many->window + 1 : 0;
    int turn = -1, piece = -1;
    for (const Span *span = many->span; span < many->span + many->spans; span++) {
        const int its = many->pieces ? span->piece : -1;
        if (span->start + span->length <= unseen) continue;
        if (piece >= 0 && its != piece) end_piece(many, piece, room);
        if (its >= 0 && its != piece) begin_piece(room);
        if (span->turn != turn) turn_queries(many, span->turn, room);
        piece = its, turn = span->turn;
        if (many->head_dim == 64) /* loops of a known length are unrolled */
            attend_span(many, span, 64, room);
        else
            attend_span(many, span, 128, room);
    }
    if (piece >= 0) end_piece(many, piece, room);
}

static int queries_of_head(const Many *many) { return many->heads / many->kv_heads * many->tokens; }

static void begin(const Many *many, int kv_head, int begin, int queries, Room *room) {
    room->kv_head = kv_head, room->queries = queries;
    for (int i = 0; i < queries; i++) {
        room->token[i] = (begin + i) % many->tokens;
        room->head[i] = kv_head * (many->heads / many->kv_heads) + (begin + i) / many->tokens;
        room->most[i] = NOTHING, room->sum[i] = 0;
    }
    memset(room->mixed, 0, sizeof room->mixed[0] * queries);
}

static void finish(const Many *many, Room *room) {
    const int dim = many->head_dim;
    for (int i = 0; i < room->queries; i++) {
        uint16_t *to = many->mixed + ((size_t)room->token[i] * many->heads + room->head[i]) * dim;
        for (int j = 0; j < dim; j += 16) store_bf16(to + j, load_floats(room->mixed[i] + j) / room->sum[i]);
        float all = room->most[i] + log2f(room->sum[i]);
        for (int piece = 0; piece < many->pieces; piece++) {
            float *share = share_of(many, room, piece, i);
            *share = exp2f(*share - all);
        }
    }
}

/* How many queries one task has: QUERIES, or fewer so that every thread has some. */
static int block_of(const Many *many, int threads) {
    int share = (queries_of_head(many) * many->kv_heads + threads - 1) / threads;
    share = (share + AT_ONCE - 1) / AT_ONCE * AT_ONCE;
    return share < FEWEST ? FEWEST : share < QUERIES ? share : QUERIES;
}

static void attend_blocks(void *of) {
    Job *job = of;
    const Many *many = job->many;
    const int all = queries_of_head(many), block = block_of(many, job->threads), blocks = (all + block - 1) / block;
    Room room;
    for (int task; (task = atomic_fetch_add(&job->next_task, 1)) < blocks * many->kv_heads;) {
        const int first = task % blocks * block;
        begin(many, task / blocks, first, all - first < block ? all - first : block, &room);
        attend_spans(many, &room);
        finish(many, &room);
    }
}

void ctx_attend_many(Parallel parallel, int threads, const Many *many) {
    Job job = {many, threads, 0};
    parallel(attend_blocks, &job, threads, 0);
}

#endif
