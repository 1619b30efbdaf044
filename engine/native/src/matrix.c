#include "matrix.h"

#include <math.h>

#include "simd.h"

/* Packed matrices: a block is TILE rows times GROUP columns, or PARTS times as many where scales have steps; see
   engine/native/packing.py. */

typedef struct {
    int bits, group, offset, has_min, stepped;
} Kind;

enum { MOST_AT_ONCE = 8, PARTS = 8 };

INLINE Kind kind_of(int kind) {
    switch (kind) {
    case PACKED_Q4: return (Kind){4, 32, 0, 1, 0};
    case PACKED_Q5: return (Kind){5, 32, 16, 0, 0};
    case PACKED_Q4_K: return (Kind){4, 32, 0, 1, 1};
    case PACKED_Q5_K: return (Kind){5, 32, 0, 1, 1};
    case PACKED_Q6_K: return (Kind){6, 16, 32, 0, 1};
    default: return (Kind){8, 32, 128, 0, 0};
    }
}

INLINE int parts_of(Kind kind) { return kind.stepped ? PARTS : 1; }

/* Bytes of TILE scales, or of as many minima. */
INLINE int scale_bytes(Kind kind) { return TILE * (kind.stepped ? 1 : 2); }

INLINE int scales_bytes(Kind kind) { return scale_bytes(kind) * (GROUP / kind.group + kind.has_min); }

INLINE int part_bytes(Kind kind) { return scales_bytes(kind) + TILE * GROUP * kind.bits / 8; }

INLINE int steps_bytes(Kind kind) { return kind.stepped ? 2 * TILE * (1 + kind.has_min) : 0; }

INLINE int block_bytes(Kind kind) { return steps_bytes(kind) + parts_of(kind) * part_bytes(kind); }

INLINE f32x16 load_scales(const uint8_t *from, Kind kind) { return kind.stepped ? load_i8(from) : load_f16(from); }

/* Four columns of a part from each of its rows, as unsigned bytes: j counts them, 0 … 7. */
INLINE u8x64 columns(const uint8_t *numbers, Kind kind, int j) {
    if (kind.bits == 8) return load_bytes(numbers + 64 * j);
    u8x64 bytes = load_bytes(numbers + 64 * (j & 3));
    bytes = j < 4 ? low_nibbles(bytes) : high_nibbles(bytes);
    for (int plane = 0; plane < kind.bits - 4; plane++) {
        uint64_t bits;
        memcpy(&bits, numbers + 256 + 64 * plane + 8 * j, sizeof bits);
        bytes = add_where(bytes, bits, (uint8_t)(16 << plane));
    }
    return bytes;
}

/* A part times n vectors: what scales and minima make of it is added to two sums. `g` counts parts in a row. */
INLINE void packed_part(const uint8_t *part, const Vectors *x, int first, int g, Kind kind, const int n, f32x16 *scaled,
                        f32x16 *least) {
    const int all = x->length / GROUP, shares = GROUP / kind.group, quads = 8 / shares;
    const Group *groups = x->groups + (size_t)first * all + g; /* of the first vector; others follow at `all` */
    const uint8_t *numbers = part + scales_bytes(kind);
    for (int share = 0; share < shares; share++) {
        i32x16 dots[MOST_AT_ONCE];
        for (int t = 0; t < n; t++)
            dots[t] = splat_int(groups[(size_t)t * all].less[shares == 1 ? 0 : 1 + share]) * kind.offset;
#pragma GCC unroll 8
        for (int j = share * quads; j < (share + 1) * quads; j++) {
            u8x64 weights = columns(numbers, kind, j);
            for (int t = 0; t < n; t++) {
                int32_t four;
                memcpy(&four, x->bytes + (size_t)(first + t) * x->length + g * GROUP + 4 * j, sizeof four);
                dots[t] = dot(dots[t], weights, four, kind.bits == 8);
            }
        }
        f32x16 scale = load_scales(part + scale_bytes(kind) * share, kind);
        for (int t = 0; t < n; t++) scaled[t] += to_float(dots[t]) * (scale * groups[(size_t)t * all].scale);
    }
    if (!kind.has_min) return;
    f32x16 min = load_scales(part + scale_bytes(kind) * shares, kind);
    for (int t = 0; t < n; t++) least[t] += min * groups[(size_t)t * all].sum;
}

/* A tile for n vectors; `kind` and n are constants wherever this is used. */
INLINE void packed_tile(const uint8_t *block, const Vectors *x, int first, Kind kind, const int n, Tile out) {
    const int all = x->length / GROUP, parts = parts_of(kind);
    f32x16 total[MOST_AT_ONCE];
    for (int t = 0; t < n; t++) total[t] = splat(0);
    for (int g = 0; g < all; g += parts, block += block_bytes(kind)) {
        if (!kind.stepped) {
            packed_part(block, x, first, g, kind, n, total, total);
            continue;
        }
        f32x16 scaled[MOST_AT_ONCE], least[MOST_AT_ONCE];
        for (int t = 0; t < n; t++) scaled[t] = least[t] = splat(0);
        for (int part = 0; part < parts; part++)
            packed_part(block + steps_bytes(kind) + part * part_bytes(kind), x, first, g + part, kind, n, scaled, least);
        for (int t = 0; t < n; t++) total[t] += load_f16(block) * scaled[t];
        for (int t = 0; kind.has_min && t < n; t++) total[t] += load_f16(block + 2 * TILE) * least[t];
    }
    for (int t = 0; t < n; t++) store_floats(out[first + t], total[t]);
}

/* As many vectors at once as have their sums in registers: weights are unpacked for all of them together. Blocks with
   steps need three sums for each, for which eight are too many. */
INLINE void packed_tile_of(const uint8_t *block, const Vectors *x, int tokens, Kind kind, Tile out) {
    int t = 0;
    if (ROOMY && !kind.stepped)
        for (; tokens - t >= MOST_AT_ONCE; t += MOST_AT_ONCE) packed_tile(block, x, t, kind, MOST_AT_ONCE, out);
    for (; tokens - t >= 4; t += 4) packed_tile(block, x, t, kind, 4, out);
    switch (tokens - t) {
    case 1: packed_tile(block, x, t, kind, 1, out); break;
    case 2: packed_tile(block, x, t, kind, 2, out); break;
    case 3: packed_tile(block, x, t, kind, 3, out); break;
    }
}

/* Dense matrices. */

INLINE f32x16 load_weights(const void *data, size_t at, int kind) {
    return kind == DENSE_BF16 ? load_bf16((const uint16_t *)data + at) : load_floats((const float *)data + at);
}

INLINE float load_weight(const void *data, size_t at, int kind) {
    if (kind == DENSE_F32) return ((const float *)data)[at];
    uint32_t bits = (uint32_t)((const uint16_t *)data)[at] << 16;
    float weight;
    memcpy(&weight, &bits, sizeof weight);
    return weight;
}

INLINE void dense_row(const void *data, size_t row, const Vectors *x, int first, int kind, const int n, int at, Tile out) {
    const int length = x->length, whole = length / 16 * 16;
    const size_t begin = row * (size_t)length;
    f32x16 total[MOST_AT_ONCE];
    for (int t = 0; t < n; t++) total[t] = splat(0);
    for (int i = 0; i < whole; i += 16) {
        f32x16 weights = load_weights(data, begin + i, kind);
        for (int t = 0; t < n; t++) total[t] += weights * load_floats(x->values + (size_t)(first + t) * length + i);
    }
    for (int t = 0; t < n; t++) {
        float sum = sum_of(total[t]);
        for (int i = whole; i < length; i++)
            sum += load_weight(data, begin + i, kind) * x->values[(size_t)(first + t) * length + i];
        out[first + t][at] = sum;
    }
}

INLINE void dense_tile(const Matrix *matrix, int tile, const Vectors *x, int tokens, int kind, Tile out) {
    int rows = matrix->rows - tile * TILE < TILE ? matrix->rows - tile * TILE : TILE;
    for (int at = 0; at < rows; at++) {
        size_t row = (size_t)tile * TILE + at;
        int t = 0;
        for (; tokens - t >= 4; t += 4) dense_row(matrix->data, row, x, t, kind, 4, at, out);
        for (; t < tokens; t++) dense_row(matrix->data, row, x, t, kind, 1, at, out);
    }
}

static int is_packed(const Matrix *matrix) { return matrix->kind >= PACKED_Q4; }

/* Round GROUP numbers to bytes: the largest becomes ±127. */
static void round_group(const float *values, int8_t *bytes, Group *group) {
    f32x16 halves[2] = {load_floats(values), load_floats(values + 16)};
    float most = largest_of(larger(larger(halves[0], -halves[0]), larger(halves[1], -halves[1])));
    float inverse = most > 0 ? 127 / most : 0;
    for (int half = 0; half < 2; half++) {
        i32x16 whole = to_nearest(halves[half] * inverse);
        store_bytes(bytes + 16 * half, whole);
        group->less[1 + half] = -(int32_t)sum_of(to_float(whole));
    }
    group->less[0] = group->less[1] + group->less[2];
    group->scale = most / 127;
    group->sum = group->scale * (float)-group->less[0];
}

void vectors_prepare(Vectors *to, int tokens, const Matrix *matrix) {
    if (!is_packed(matrix)) return;
    size_t groups = (size_t)tokens * to->length / GROUP;
    for (size_t g = 0; g < groups; g++) round_group(to->values + g * GROUP, to->bytes + g * GROUP, to->groups + g);
}

int matrix_tiles(const Matrix *matrix) { return (matrix->rows + TILE - 1) / TILE; }

int64_t matrix_tile_bytes(const Matrix *matrix) {
    if (is_packed(matrix)) {
        Kind kind = kind_of(matrix->kind);
        return (int64_t)matrix->columns / (GROUP * parts_of(kind)) * block_bytes(kind);
    }
    return (int64_t)TILE * matrix->columns * (matrix->kind == DENSE_BF16 ? 2 : 4);
}

void matrix_tile(const Matrix *matrix, int tile, const Vectors *x, int tokens, Tile out) {
    const uint8_t *block = (const uint8_t *)matrix->data + matrix_tile_bytes(matrix) * tile;
    switch (matrix->kind) {
    case DENSE_F32: dense_tile(matrix, tile, x, tokens, DENSE_F32, out); break;
    case DENSE_BF16: dense_tile(matrix, tile, x, tokens, DENSE_BF16, out); break;
    case PACKED_Q4: packed_tile_of(block, x, tokens, kind_of(PACKED_Q4), out); break;
    case PACKED_Q5: packed_tile_of(block, x, tokens, kind_of(PACKED_Q5), out); break;
    case PACKED_Q8: packed_tile_of(block, x, tokens, kind_of(PACKED_Q8), out); break;
    case PACKED_Q4_K: packed_tile_of(block, x, tokens, kind_of(PACKED_Q4_K), out); break;
    case PACKED_Q5_K: packed_tile_of(block, x, tokens, kind_of(PACKED_Q5_K), out); break;
    case PACKED_Q6_K: packed_tile_of(block, x, tokens, kind_of(PACKED_Q6_K), out); break;
    }
    if (!matrix->bias) return;
    for (int t = 0; t < tokens; t++)
        for (int i = 0; i < TILE && tile * TILE + i < matrix->rows; i++) out[t][i] += matrix->bias[tile * TILE + i];
}
