#include "many.h"

#include "simd.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)

#include <math.h>

#define BF16 __attribute__((target("avx512bf16")))

/* Most queries of a task, whose sums stay near while the keys pass by, and the fewest worth laying keys out for; keys
   that are laid out at a time; queries whose sums are in registers. */
enum { QUERIES = 192, FEWEST = 48, KEYS = 64, AT_ONCE = 6, VECTORS = KEYS / 16, WIDEST = 128 };

static const float NOTHING = -1e30f;

typedef struct {
    Crew *crew;
    const Many *many;
} Job;

/* What one thread works on; pairs of bfloat16 are one number of 32 bits. */
typedef struct {
    uint32_t keys[WIDEST / 2][KEYS] __attribute__((aligned(64)));   /* a pair of dims of each key */
    uint32_t values[KEYS / 2][WIDEST] __attribute__((aligned(64))); /* each dim of a pair of keys */
    uint32_t weights[AT_ONCE][KEYS / 2] __attribute__((aligned(64)));
    float most[QUERIES], sum[QUERIES];
} Room;

/* What stands in for keys and values behind the last. */
static const uint16_t nothing[WIDEST];

static const uint16_t *row_of(const uint16_t *rows, int row, int count, int dim) {
    return row < count ? rows + (size_t)row * dim : nothing;
}

static void lay_keys(const uint16_t *keys, int count, int dim, Room *room) {
    for (int key = 0; key < KEYS; key += 16)
        for (int i = 0; i < dim; i += 32) {
            f32x16 pairs[16];
            for (int j = 0; j < 16; j++) memcpy(pairs + j, row_of(keys, key + j, count, dim) + i, sizeof pairs[j]);
            transpose(pairs);
            for (int j = 0; j < 16; j++) memcpy(room->keys[i / 2 + j] + key, pairs + j, sizeof pairs[j]);
        }
}

static void lay_values(const uint16_t *values, int count, int dim, Room *room) {
    for (int pair = 0; pair < KEYS / 2; pair++) {
        const uint16_t *low = row_of(values, 2 * pair, count, dim), *high = row_of(values, 2 * pair + 1, count, dim);
        for (int i = 0; i < dim; i++) room->values[pair][i] = low[i] | (uint32_t)high[i] << 16;
    }
}

/* Add to sums the products of rows of `count` pairs and of as many columns, which stand `stride` numbers apart. */
INLINE BF16 void add_products(f32x16 sums[AT_ONCE][VECTORS], const char *const rows[AT_ONCE], const uint32_t *columns,
                              int stride, int count) {
    f32x16 total[AT_ONCE][VECTORS]; /* in registers, which what the caller has might not be */
    memcpy(total, sums, sizeof total);
    for (int pair = 0; pair < count; pair++) {
        __m512bh column[VECTORS];
        for (int j = 0; j < VECTORS; j++) column[j] = (__m512bh)_mm512_load_si512(columns + pair * stride + 16 * j);
        for (int i = 0; i < AT_ONCE; i++) {
            int both;
            memcpy(&both, rows[i] + 4 * pair, sizeof both);
            __m512bh row = (__m512bh)_mm512_set1_epi32(both);
            for (int j = 0; j < VECTORS; j++)
                total[i][j] = (f32x16)_mm512_dpbf16_ps((__m512)total[i][j], row, column[j]);
        }
    }
    memcpy(sums, total, sizeof total);
}

/* Scores become e^(score - most) as bfloat16; returns by what earlier sums of this query are to be multiplied. */
INLINE BF16 float weigh(f32x16 *scores, float scale, int count, float *most, float *sum, uint32_t *weights) {
    const i32x16 lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    f32x16 highest = splat(*most);
    for (int i = 0; i < VECTORS; i++) {
        scores[i] *= scale;
        i32x16 there = lanes + 16 * i < count;
        scores[i] = (f32x16)((there & (i32x16)scores[i]) | (~there & (i32x16)splat(NOTHING)));
        highest = larger(highest, scores[i]);
    }
    float now = _mm512_reduce_max_ps((__m512)highest), keep = exponential(splat(*most - now))[0];
    f32x16 total = splat(0);
    for (int i = 0; i < VECTORS; i++) total += scores[i] = exponential(scores[i] - now);
    for (int i = 0; i < VECTORS; i += 2) {
        __m512bh both = _mm512_cvtne2ps_pbh((__m512)scores[i + 1], (__m512)scores[i]);
        _mm512_store_si512(weights + 8 * i, (__m512i)both);
    }
    *sum = *sum * keep + _mm512_reduce_add_ps((__m512)total);
    *most = now;
    return keep;
}

/* A few queries over the keys that are laid out; those behind the last query are the last one once more. */
INLINE BF16 void attend_some(const Many *many, const uint16_t *queries, float *mixed, int first, int some, int count,
                             const int dim, Room *room) {
    f32x16 sums[AT_ONCE][VECTORS] = {0};
    const char *query[AT_ONCE], *weights[AT_ONCE];
    float *to[AT_ONCE];
    for (int i = 0; i < AT_ONCE; i++) {
        size_t at = (size_t)(first + (i < some ? i : some - 1)) * dim;
        query[i] = (const char *)(queries + at), weights[i] = (const char *)room->weights[i], to[i] = mixed + at;
    }
    add_products(sums, query, room->keys[0], KEYS, dim / 2);
    float keep[AT_ONCE] = {0};
    for (int i = 0; i < AT_ONCE; i++)
        if (i < some)
            keep[i] =
                weigh(sums[i], many->scale, count, room->most + first + i, room->sum + first + i, room->weights[i]);
    for (int begin = 0; begin < dim; begin += 16 * VECTORS) {
        for (int i = 0; i < AT_ONCE; i++)
            for (int j = 0; j < VECTORS; j++) sums[i][j] = load_floats(to[i] + begin + 16 * j) * keep[i];
        add_products(sums, weights, room->values[0] + begin, WIDEST, KEYS / 2);
        for (int i = 0; i < AT_ONCE; i++)
            if (i < some)
                for (int j = 0; j < VECTORS; j++) store_floats(to[i] + begin + 16 * j, sums[i][j]);
    }
}

static int queries_of_head(const Many *many) { return many->heads / many->kv_heads * many->tokens; }

/* Some queries of one KV head, from `begin` on, over all spans. */
INLINE BF16 void attend_block(const Many *many, int kv_head, int begin, int queries, const int dim, Room *room) {
    const size_t at = (size_t)kv_head * queries_of_head(many) + begin;
    float *mixed = many->mixed + at * dim;
    memset(mixed, 0, (size_t)queries * dim * sizeof(float));
    for (int i = 0; i < queries; i++) room->most[i] = NOTHING, room->sum[i] = 0;
    for (const Span *span = many->span; span < many->span + many->spans; span++)
        for (int64_t key = 0; key < span->length; key += KEYS) {
            int count = span->length - key < KEYS ? (int)(span->length - key) : KEYS;
            size_t from = (size_t)kv_head * many->head_stride + (size_t)key * dim;
            lay_keys(span->keys + from, count, dim, room);
            lay_values(span->values + from, count, dim, room);
            for (int i = 0; i < queries; i += AT_ONCE)
                attend_some(many, span->queries + at * dim, mixed, i, queries - i < AT_ONCE ? queries - i : AT_ONCE,
                            count, dim, room);
        }
    for (int i = 0; i < queries; i++) {
        for (int j = 0; j < dim; j++) mixed[(size_t)i * dim + j] /= room->sum[i];
        many->lse[at + i] = room->most[i] + logf(room->sum[i]);
    }
}

/* How many queries one task has: QUERIES, or fewer so that every thread has some. */
static int block_of(const Many *many, int threads) {
    int share = (queries_of_head(many) * many->kv_heads + threads - 1) / threads;
    share = (share + AT_ONCE - 1) / AT_ONCE * AT_ONCE;
    return share < FEWEST ? FEWEST : share < QUERIES ? share : QUERIES;
}

static BF16 void attend_blocks(void *job, int thread) {
    (void)thread;
    Crew *crew = ((Job *)job)->crew;
    const Many *many = ((Job *)job)->many;
    const int all = queries_of_head(many), block = block_of(many, crew_threads(crew)), blocks = (all + block - 1) / block;
    Room room;
    for (int task; (task = crew_take(crew, 1)) < blocks * many->kv_heads;) {
        int kv_head = task / blocks, begin = task % blocks * block;
        int queries = all - begin < block ? all - begin : block;
        if (many->head_dim == 64) /* loops of a known length are unrolled */
            attend_block(many, kv_head, begin, queries, 64, &room);
        else
            attend_block(many, kv_head, begin, queries, 128, &room);
    }
}

void ctx_attend_many(Crew *crew, const Many *many) {
    Job job = {crew, many};
    crew_run(crew, INT32_MAX, attend_blocks, &job);
}

#endif
