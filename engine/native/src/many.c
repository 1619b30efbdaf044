#include "many.h"

#include <math.h>
#include <stdatomic.h>

#include "simd.h"

#if defined(__AVX2__) /* elsewhere nobody has measured whether it is quicker than torch */

/* Most queries of a task, whose sums stay near while the keys pass by, and the fewest worth laying keys out for; most
   keys that are laid out at a time; queries whose sums are in registers, and of how many vectors at once. */
enum { QUERIES = 192, FEWEST = 48, KEYS = 64, AT_ONCE = 6, VECTORS = KEYS / 16, WIDEST = 128, WIDE = ROOMY ? 4 : 1 };

static const float NOTHING = -1e30f;

typedef struct {
    const Many *many;
    int threads;
    atomic_int next_task;
} Job;

/* A pair of bfloat16, or one float32: what one lane multiplies at a time. */
typedef uint32_t Word;

/* What one thread works on: some queries of one KV head. */
typedef struct {
    Word keys[WIDEST * KEYS] __attribute__((aligned(64)));   /* [words of dims, KEYS] */
    Word values[KEYS * WIDEST] __attribute__((aligned(64))); /* [words of keys, dims] */
    Word weights[AT_ONCE][KEYS] __attribute__((aligned(64)));
    Word turned[QUERIES][WIDEST] __attribute__((aligned(64))); /* words of dims */
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
static const Word nothing[WIDEST];

/* Words of so many numbers; `pairs` and `dim` are constants wherever they are used. */
INLINE int words(int numbers, const int pairs) { return pairs ? (numbers + 1) / 2 : numbers; }

/* `rows` are of `dim` numbers each. */
INLINE const Word *row_of(const void *rows, int row, int count, const int dim, const int pairs) {
    return row < count ? (const Word *)rows + (size_t)row * words(dim, pairs) : nothing;
}

INLINE f32x16 load_numbers(const void *from, size_t at, const int pairs) {
    return pairs ? load_bf16((const uint16_t *)from + at) : load_floats((const float *)from + at);
}

INLINE void store_numbers(void *to, size_t at, f32x16 numbers, const int pairs) {
    if (pairs)
        store_bf16((uint16_t *)to + at, numbers);
    else
        store_floats((float *)to + at, numbers);
}

INLINE void lay_keys(const void *keys, int count, const int dim, const int pairs, Room *room) {
    for (int key = 0; key < count; key += 16)
        for (int i = 0; i < words(dim, pairs); i += 16) {
            f32x16 square[16];
            for (int j = 0; j < 16; j++) memcpy(square + j, row_of(keys, key + j, count, dim, pairs) + i, sizeof *square);
            transpose(square);
            for (int j = 0; j < 16; j++) memcpy(room->keys + (i + j) * KEYS + key, square + j, sizeof *square);
        }
}

INLINE void lay_values(const void *values, int count, const int dim, const int pairs, Room *room) {
    if (!pairs) {
        memcpy(room->values, values, (size_t)count * dim * sizeof(float));
        return;
    }
    for (int pair = 0; 2 * pair < count; pair++) {
        const uint16_t *low = (const uint16_t *)row_of(values, 2 * pair, count, dim, 1);
        const uint16_t *high = (const uint16_t *)row_of(values, 2 * pair + 1, count, dim, 1);
        for (int i = 0; i < dim; i++) room->values[pair * dim + i] = low[i] | (Word)high[i] << 16;
    }
}

INLINE void turn_queries(const Many *many, int turn, const int dim, const int pairs, Room *room) {
    for (int query = 0; query < room->queries; query++) {
        const size_t token = room->token[query], head = room->head[query], from = token * many->query_stride + head * dim;
        const size_t partner = (token * many->heads + head) * dim, angle = ((size_t)turn * many->tokens + token) * dim;
        for (int i = 0; i < dim; i += 16) {
            f32x16 turned = load_numbers(many->queries, from + i, pairs);
            if (many->cos) {
                turned *= load_floats(many->cos + angle + i);
                turned += load_numbers(many->partners, partner + i, pairs) * load_floats(many->sin + angle + i);
            }
            store_numbers(room->turned[query], i, turned, pairs);
        }
    }
}

/* Sixteen lanes of a column times one number of a row, each a word. */
INLINE f32x16 add_words(f32x16 sums, Word row, const Word *column, const int pairs) {
    i32x16 lanes;
    memcpy(&lanes, column, sizeof lanes);
    return pairs ? add_pairs(sums, splat_int((int32_t)row), lanes) : sums + (f32x16)splat_int((int32_t)row) * (f32x16)lanes;
}

/* Add to sums the products of rows of `count` words and of 16 · `vectors` columns, which stand `stride` words apart. */
INLINE void add_products(f32x16 sums[AT_ONCE][VECTORS], const Word *const rows[AT_ONCE], const Word *columns,
                         int stride, int count, const int vectors, const int pairs) {
    for (int from = 0; from < vectors; from += WIDE) {
        const int wide = vectors < WIDE ? vectors : WIDE;
        f32x16 total[AT_ONCE][WIDE]; /* in registers, which what the caller has might not be */
        for (int i = 0; i < AT_ONCE; i++)
            for (int j = 0; j < wide; j++) total[i][j] = sums[i][from + j];
        for (int word = 0; word < count; word++)
            for (int i = 0; i < AT_ONCE; i++)
                for (int j = 0; j < wide; j++)
                    total[i][j] = add_words(total[i][j], rows[i][word], columns + word * stride + 16 * (from + j), pairs);
        for (int i = 0; i < AT_ONCE; i++)
            for (int j = 0; j < wide; j++) sums[i][from + j] = total[i][j];
    }
}

/* Weights as words: pairs of bfloat16, or as they are. */
INLINE void store_weights(Word *to, const f32x16 *weights, const int vectors, const int pairs) {
#if defined(__AVX512BF16__)
    for (int i = 0; pairs && i < vectors; i += 2) {
        f32x16 odd = i + 1 < vectors ? weights[i + 1] : splat(0);
        __m512bh both = _mm512_cvtne2ps_pbh((__m512)odd, (__m512)weights[i]);
        _mm512_store_si512(to + 8 * i, (__m512i)both);
    }
#endif
    for (int i = 0; !pairs && i < vectors; i++) memcpy(to + 16 * i, weights + i, sizeof *weights);
}

/* Scores of the keys from `first` to `end` become 2^(scale · score - most), all others 0; returns by what earlier sums of
   this query are to be multiplied. */
INLINE float weigh(f32x16 *scores, float scale, int first, int end, float *most, float *sum, Word *weights,
                   const int vectors, const int pairs) {
    if (first >= end) {
        memset(weights, 0, KEYS * sizeof *weights);
        return 1;
    }
    const uint64_t seen = ~UINT64_C(0) >> (64 - end) & ~UINT64_C(0) << first;
    f32x16 highest = splat(NOTHING);
    for (int i = 0; i < vectors; i++) {
        scores[i] = choose((uint16_t)(seen >> 16 * i), scores[i], splat(NOTHING));
        highest = larger(highest, scores[i]);
    }
    float now = fmaxf(*most, scale * largest_of(highest)), keep = power_of_two(splat(*most - now))[0];
    f32x16 total = splat(0);
    for (int i = 0; i < vectors; i++) total += scores[i] = power_of_two(scores[i] * scale - now);
    store_weights(weights, scores, vectors, pairs);
    *sum = *sum * keep + sum_of(total);
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
                        const int pairs, Room *room) {
    const Word *query[AT_ONCE], *weights[AT_ONCE];
    int begins[AT_ONCE], ends[AT_ONCE], seen = 0;
    for (int i = 0; i < AT_ONCE; i++) {
        const int at = first + (i < some ? i : some - 1);
        query[i] = room->turned[at], weights[i] = room->weights[i];
        begins[i] = first_seen(many, keys, room->token[at]), ends[i] = end_seen(many, keys, room->token[at]);
        seen |= begins[i] < ends[i];
    }
    if (!seen) return;
    f32x16 sums[AT_ONCE][VECTORS] = {0};
    add_products(sums, query, room->keys, KEYS, words(dim, pairs), vectors, pairs);
    float keep[AT_ONCE] = {0};
    for (int i = 0; i < AT_ONCE; i++)
        if (i < some)
            keep[i] = weigh(sums[i], LOG2_E * many->scale, begins[i], ends[i], room->most + first + i,
                            room->sum + first + i, room->weights[i], vectors, pairs);
    for (int begin = 0; begin < dim; begin += 16 * VECTORS) {
        for (int i = 0; i < AT_ONCE; i++)
            for (int j = 0; j < VECTORS; j++)
                sums[i][j] = load_floats(room->mixed[first + (i < some ? i : some - 1)] + begin + 16 * j) * keep[i];
        add_products(sums, weights, room->values + begin, dim, words(keys->count, pairs), VECTORS, pairs);
        for (int i = 0; i < AT_ONCE; i++)
            if (i < some)
                for (int j = 0; j < VECTORS; j++) store_floats(room->mixed[first + i] + begin + 16 * j, sums[i][j]);
    }
}

INLINE void attend_keys(const Many *many, const Keys *keys, const int dim, const int pairs, Room *room) {
    for (int first = 0; first < room->queries; first += AT_ONCE) {
        const int some = room->queries - first < AT_ONCE ? room->queries - first : AT_ONCE;
        switch ((keys->count + 15) / 16) {
            case 1: attend_some(many, keys, first, some, dim, 1, pairs, room); break;
            case 2: attend_some(many, keys, first, some, dim, 2, pairs, room); break;
            case 3: attend_some(many, keys, first, some, dim, 3, pairs, room); break;
            default: attend_some(many, keys, first, some, dim, 4, pairs, room);
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

INLINE void attend_span(const Many *many, const Span *span, const int dim, const int pairs, Room *room) {
    for (int key = 0; key < span->length; key += KEYS) {
        const Keys keys = {span->start + key, span->length - key < KEYS ? span->length - key : KEYS};
        const size_t from = ((size_t)room->kv_head * many->slots + span->slot + key) * words(dim, pairs);
        lay_keys((const Word *)many->keys + from, keys.count, dim, pairs, room);
        lay_values((const Word *)many->values + from, keys.count, dim, pairs, room);
        attend_keys(many, &keys, dim, pairs, room);
    }
}

INLINE void attend_spans(const Many *many, const int dim, const int pairs, Room *room) {
    const int unseen = many->window ? many->position - many->window + 1 : 0;
    int turn = -1, piece = -1;
    for (const Span *span = many->span; span < many->span + many->spans; span++) {
        const int its = many->pieces ? span->piece : -1;
        if (span->start + span->length <= unseen) continue;
        if (piece >= 0 && its != piece) end_piece(many, piece, room);
        if (its >= 0 && its != piece) begin_piece(room);
        if (span->turn != turn) turn_queries(many, span->turn, dim, pairs, room);
        piece = its, turn = span->turn;
        attend_span(many, span, dim, pairs, room);
    }
    if (piece >= 0) end_piece(many, piece, room);
}

/* Loops of a known length are unrolled, so each width and kind of numbers has its own. */
static void attend(const Many *many, Room *room) {
    if (HAS_PAIRS && many->pairs) {
        if (many->head_dim == 64) attend_spans(many, 64, HAS_PAIRS, room);
        else attend_spans(many, WIDEST, HAS_PAIRS, room);
    } else {
        if (many->head_dim == 64) attend_spans(many, 64, 0, room);
        else attend_spans(many, WIDEST, 0, room);
    }
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
        const size_t to = ((size_t)room->token[i] * many->heads + room->head[i]) * dim;
        for (int j = 0; j < dim; j += 16)
            store_numbers(many->mixed, to + j, load_floats(room->mixed[i] + j) / room->sum[i], many->pairs);
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
        attend(many, &room);
        finish(many, &room);
    }
}

void ctx_attend_many(Parallel parallel, int threads, const Many *many) {
    Job job = {many, threads, 0};
    parallel(attend_blocks, &job, threads, 0);
}

#endif
