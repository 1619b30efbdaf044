/* One step: some tokens through all layers, and the logits behind those that are wanted.

   The same function runs in every thread of a crew. What is cheap (norms, rounding a vector) each does for itself,
   which spares a barrier; products, keys and attention are parted into tasks. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention.h"
#include "crew.h"
#include "many.h"
#include "matrix.h"
#include "model.h"
#include "simd.h"

/* Each thread's own room. */
typedef struct {
    int thread;
    Vectors vectors;
    AttentionRoom attention;
} Room;

typedef struct {
    const Model *model;
    Crew *crew;
    Room *rooms;
    Parts parts;
    /* [MOST_TOKENS, …] of all threads */
    float *hidden;  /* hidden */
    float *qkv;     /* queries, keys and values */
    float *mixed;   /* heads · head_dim */
    float *gated;   /* inner */
    void *memory;
} Stepper;

typedef struct {
    Stepper *stepper;
    const Step *step;
} Job;

/* A product's part: where its rows go, at out + token · stride. */
typedef struct {
    const Matrix *matrix;
    float *out;
} Part;

typedef enum { SET, ADD } Mode;

/* So many bytes of weights at least are one task: a thread then reads on where it was. */
enum { TASK_BYTES = 1 << 15 };

static int task_tiles(const Matrix *matrix, int tiles, int threads) {
    int64_t by_bytes = TASK_BYTES / matrix_tile_bytes(matrix) + 1, share = tiles / (4 * threads) + 1;
    return (int)(by_bytes < share ? by_bytes : share);
}

static void place(const Part *part, int tile, int tokens, int stride, Mode mode, Tile values) {
    int first = tile * TILE, count = part->matrix->rows - first < TILE ? part->matrix->rows - first : TILE;
    for (int t = 0; t < tokens; t++) {
        float *to = part->out + (size_t)t * stride + first;
        for (int i = 0; i < count; i++) to[i] = mode == ADD ? to[i] + values[t][i] : values[t][i];
    }
}

/* All parts' matrices times the room's vectors. */
static void multiply(Crew *crew, const Part *parts, int num_parts, const Room *room, int tokens, int stride, Mode mode) {
    int tiles = 0, first, count;
    for (int p = 0; p < num_parts; p++) tiles += matrix_tiles(parts[p].matrix);
    int at_once = task_tiles(parts[0].matrix, tiles, crew_threads(crew));
    while ((count = crew_take_near(crew, room->thread, tiles, at_once, &first))) {
        int p = 0, before = 0;
        for (int tile = first; tile < first + count; tile++) {
            while (tile - before >= matrix_tiles(parts[p].matrix)) before += matrix_tiles(parts[p++].matrix);
            Tile values;
            matrix_tile(parts[p].matrix, tile - before, &room->vectors, tokens, values);
            place(&parts[p], tile - before, tokens, stride, mode, values);
        }
    }
}

/* silu(gate · x) times up · x */
static void multiply_gated(Crew *crew, const Layer *layer, const Room *room, int tokens, float *out) {
    int tiles = matrix_tiles(&layer->gate), at_once = task_tiles(&layer->gate, tiles, crew_threads(crew));
    Part part = {&layer->gate, out};
    for (int first, count; (count = crew_take_near(crew, room->thread, tiles, at_once, &first));)
        for (int tile = first; tile < first + count; tile++) {
            Tile gate, up;
            matrix_tile(&layer->gate, tile, &room->vectors, tokens, gate);
            matrix_tile(&layer->up, tile, &room->vectors, tokens, up);
            for (int t = 0; t < tokens; t++) {
                f32x16 x = load_floats(gate[t]);
                store_floats(gate[t], x / (1 + exponential(-x)) * load_floats(up[t]));
            }
            place(&part, tile, tokens, layer->gate.rows, SET, gate);
        }
}

static void norm(const float *x, const float *weight, int length, float eps, float *to) {
    f32x16 squares = splat(0);
    for (int i = 0; i < length; i += 16) squares += load_floats(x + i) * load_floats(x + i);
    float scale = 1 / sqrtf(sum_of(squares) / length + eps);
    for (int i = 0; i < length; i++) to[i] = x[i] * scale * weight[i];
}

static void take_normed(Vectors *to, const float *x, int tokens, const float *weight, const Model *model) {
    to->length = model->hidden;
    for (int t = 0; t < tokens; t++)
        norm(x + (size_t)t * model->hidden, weight, model->hidden, model->eps, to->values + (size_t)t * model->hidden);
}

static void take(Vectors *to, const float *x, int tokens, int length) {
    to->length = length;
    memcpy(to->values, x, (size_t)tokens * length * sizeof(float));
}

/* Vectors are rounded if any of the matrices they meet is packed. */
static void prepare(Vectors *x, int tokens, const Matrix *const *matrices, int count) {
    const Matrix *packed = matrices[0];
    for (int i = 1; i < count; i++)
        if (matrices[i]->kind > packed->kind) packed = matrices[i];
    vectors_prepare(x, tokens, packed);
}

static void embed(const Model *model, const Step *step, float *hidden) {
    for (int t = 0; t < step->tokens; t++)
        for (int i = 0; i < model->hidden; i++) {
            size_t at = (size_t)step->ids[t] * model->hidden + i;
            float *to = hidden + (size_t)t * model->hidden + i;
            if (model->embedding_kind == F32) {
                *to = ((const float *)model->embedding)[at];
                continue;
            }
            uint32_t bits = (uint32_t)((const uint16_t *)model->embedding)[at] << 16;
            memcpy(to, &bits, sizeof bits);
        }
}

static int qkv_width(const Model *model) { return (model->heads + 2 * model->kv_heads) * model->head_dim; }

static void store_kv(const Model *model, void *cache, int kv_head, int slot, const float *numbers) {
    size_t at = ((size_t)kv_head * model->slots + slot) * model->head_dim;
    if (model->kv_kind == F32) {
        memcpy((float *)cache + at, numbers, model->head_dim * sizeof(float));
        return;
    }
    uint16_t *to = (uint16_t *)cache + at;
    for (int i = 0; i < model->head_dim; i += 16) store_bf16(to + i, load_floats(numbers + i));
}

/* One head of a token's queries (normed), or of its keys and values (stored). */
static void finish_head(Stepper *stepper, const Layer *layer, const Step *step, int token, int head) {
    const Model *model = stepper->model;
    const int dim = model->head_dim, kv_head = head - model->heads;
    float *numbers = stepper->qkv + (size_t)token * qkv_width(model) + (size_t)head * dim;
    const float *weight = kv_head < 0 ? layer->q_norm : layer->k_norm;
    if (weight) norm(numbers, weight, dim, model->eps, numbers);
    if (kv_head < 0) return;
    float turned[dim];
    if (layer->rotates)
        attention_rotate(model, step->positions[token], numbers, turned);
    else
        memcpy(turned, numbers, sizeof turned);
    store_kv(model, layer->keys, kv_head, step->slots[token], turned);
    store_kv(model, layer->values, kv_head, step->slots[token], numbers + (size_t)model->kv_heads * dim);
}

static void finish_heads(Stepper *stepper, const Layer *layer, const Step *step) {
    const int heads = stepper->model->heads + stepper->model->kv_heads;
    for (int task; (task = crew_take(stepper->crew, heads)) < step->tokens * heads;)
        for (int head = 0; head < heads; head++) finish_head(stepper, layer, step, task / heads, head);
}

static void attend(Stepper *stepper, const Layer *layer, const Step *step, Room *room) {
    const Model *model = stepper->model;
    int tasks = 0;
    for (int r = 0; r < step->rows; r++) tasks += attention_stretches(step, step->row + r) * model->kv_heads;
    for (int task; crew_take_near(stepper->crew, room->thread, tasks, 1, &task);) {
        const Row *row = step->row;
        int stretches;
        for (; task >= (stretches = attention_stretches(step, row)) * model->kv_heads; row++)
            task -= stretches * model->kv_heads;
        /* a head's stretches one after the other, as its keys lie in memory */
        attention_stretch(model, layer, step, row, task / stretches, task % stretches, stepper->qkv, qkv_width(model),
                          &stepper->parts, &room->attention);
    }
}

static void merge(Stepper *stepper, const Layer *layer, const Step *step) {
    const Model *model = stepper->model;
    for (int token; (token = crew_take(stepper->crew, 1)) < step->tokens;) {
        const Row *row = step->row;
        while (token >= row->first_token + row->tokens) row++;
        for (int head = 0; head < model->heads; head++)
            attention_merge(model, layer, step, row, token, head, &stepper->parts,
                            stepper->mixed + ((size_t)token * model->heads + head) * model->head_dim);
    }
}

/* Queries, and what a layer keeps: keys and values. */
static void project(Stepper *stepper, const Layer *layer, const Step *step, Room *room) {
    const Model *model = stepper->model;
    const int tokens = step->tokens, queries = model->heads * model->head_dim, keys = model->kv_heads * model->head_dim;
    const Part qkv[] = {{&layer->q, stepper->qkv}, {&layer->k, stepper->qkv + queries},
                        {&layer->v, stepper->qkv + queries + keys}};
    take_normed(&room->vectors, stepper->hidden, tokens, layer->attention_norm, model);
    prepare(&room->vectors, tokens, (const Matrix *[]){&layer->q, &layer->k, &layer->v}, 3);
    multiply(stepper->crew, qkv, 3, room, tokens, qkv_width(model), SET);
    crew_meet(stepper->crew);
    finish_heads(stepper, layer, step);
    crew_meet(stepper->crew);
}

static void add_attention(Stepper *stepper, const Layer *layer, const Step *step, Room *room) {
    const Model *model = stepper->model;
    attend(stepper, layer, step, room);
    crew_meet(stepper->crew);
    merge(stepper, layer, step);
    crew_meet(stepper->crew);
    const Part output = {&layer->output, stepper->hidden};
    take(&room->vectors, stepper->mixed, step->tokens, model->heads * model->head_dim);
    vectors_prepare(&room->vectors, step->tokens, &layer->output);
    multiply(stepper->crew, &output, 1, room, step->tokens, model->hidden, ADD);
    crew_meet(stepper->crew);
}

static void add_mlp(Stepper *stepper, const Layer *layer, const Step *step, Room *room) {
    const Model *model = stepper->model;
    take_normed(&room->vectors, stepper->hidden, step->tokens, layer->mlp_norm, model);
    prepare(&room->vectors, step->tokens, (const Matrix *[]){&layer->gate, &layer->up}, 2);
    multiply_gated(stepper->crew, layer, room, step->tokens, stepper->gated);
    crew_meet(stepper->crew);
    const Part down = {&layer->down, stepper->hidden};
    take(&room->vectors, stepper->gated, step->tokens, model->inner);
    vectors_prepare(&room->vectors, step->tokens, &layer->down);
    multiply(stepper->crew, &down, 1, room, step->tokens, model->hidden, ADD);
    crew_meet(stepper->crew);
}

static void add_logits(Stepper *stepper, const Step *step, Room *room) {
    const Model *model = stepper->model;
    room->vectors.length = model->hidden;
    for (int w = 0; w < step->wanted; w++)
        norm(stepper->hidden + (size_t)step->wanted_tokens[w] * model->hidden, model->norm, model->hidden, model->eps,
             room->vectors.values + (size_t)w * model->hidden);
    vectors_prepare(&room->vectors, step->wanted, &model->head);
    const Part logits = {&model->head, step->logits};
    multiply(stepper->crew, &logits, 1, room, step->wanted, model->vocab, SET);
}

static void go_through(void *of, int thread) {
    const Job *job = of;
    Stepper *stepper = job->stepper;
    Room *room = stepper->rooms + thread;
    if (thread == 0) embed(stepper->model, job->step, stepper->hidden);
    crew_meet(stepper->crew);
    for (int i = 0; i < stepper->model->num_layers; i++) {
        const Layer *layer = stepper->model->layers + i;
        project(stepper, layer, job->step, room);
        if (i == stepper->model->num_layers - 1 && !job->step->wanted) return; /* nobody reads more of it */
        add_attention(stepper, layer, job->step, room);
        add_mlp(stepper, layer, job->step, room);
    }
    add_logits(stepper, job->step, room);
}

/* -- memory ----------------------------------------------------------------------------------------------------- */

/* Hands out parts of one stretch of memory; with none, only counts. Each begins on a line of its own. */
typedef struct {
    char *at;
    size_t used;
} Arena;

static void *hand_out(Arena *arena, size_t count, size_t size) {
    void *part = arena->at ? arena->at + arena->used : NULL;
    arena->used += (count * size + 63) / 64 * 64;
    return part;
}

static Vectors room_for_vectors(Arena *arena, size_t numbers) {
    return (Vectors){0, hand_out(arena, numbers, 4), hand_out(arena, numbers, 1),
                     hand_out(arena, numbers / GROUP + 1, sizeof(Group))};
}

static void lay_out(Stepper *stepper, const Model *model, int threads, Arena *arena) {
    const size_t tokens = MOST_TOKENS, parts = tokens * model->heads * MOST_STRETCHES, dim = model->head_dim;
    const size_t queries = tokens * (model->heads / model->kv_heads), mixed = model->heads * dim;
    size_t longest = model->hidden > model->inner ? model->hidden : model->inner;
    if (mixed > longest) longest = mixed;
    Room *rooms = hand_out(arena, threads, sizeof(Room));
    Parts all = {hand_out(arena, parts, 4), hand_out(arena, parts, 4), hand_out(arena, parts * dim, 4)};
    stepper->rooms = rooms;
    stepper->parts = all;
    stepper->hidden = hand_out(arena, tokens * model->hidden, 4);
    stepper->qkv = hand_out(arena, tokens * qkv_width(model), 4);
    stepper->mixed = hand_out(arena, tokens * mixed, 4);
    stepper->gated = hand_out(arena, tokens * model->inner, 4);
    for (int i = 0; i < threads; i++) {
        Room room = {
            i, room_for_vectors(arena, tokens * longest),
            {hand_out(arena, queries * dim, 4), hand_out(arena, KEYS_AT_ONCE * dim, 4),
             hand_out(arena, queries * KEYS_AT_ONCE, 4), hand_out(arena, queries, sizeof(int))}};
        if (rooms) rooms[i] = room;
    }
}

/* -- what Python calls ------------------------------------------------------------------------------------------- */

/* What engine/native/abi.py must agree with: a library that was built of other sources would read past its arrays. */
const int32_t ctx_sizes[] = {ABI_VERSION,   MOST_TOKENS,   MOST_STRETCHES, PACKED_Q6_K, sizeof(Matrix),
                             sizeof(Layer), sizeof(Model), sizeof(Step),   sizeof(Many)};

void ctx_stepper_free(Stepper *stepper) {
    if (stepper->crew) crew_free(stepper->crew);
    free(stepper->memory);
    free(stepper);
}

/* A stepper of `model`, which must stay where it is, with so many threads; null if there is no memory for it. */
Stepper *ctx_stepper_new(const Model *model, int threads) {
    Stepper *stepper = calloc(1, sizeof(Stepper));
    if (!stepper) return NULL;
    Arena arena = {0};
    lay_out(stepper, model, threads, &arena);
    stepper->model = model;
    stepper->memory = aligned_alloc(64, arena.used);
    stepper->crew = crew_new(threads);
    if (!stepper->memory || !stepper->crew) {
        ctx_stepper_free(stepper);
        return NULL;
    }
    arena = (Arena){stepper->memory, 0};
    lay_out(stepper, model, threads, &arena);
    return stepper;
}

/* Compute a step with so many of the threads, one step at a time. Returns what `crew_run` does. */
double ctx_step(Stepper *stepper, const Step *step, int threads) {
    Job job = {stepper, step};
    return crew_run(stepper->crew, threads, go_through, &job);
}

/* matrix · x + bias in the calling thread: x [tokens, columns] to [tokens, rows]; nonzero if there is no memory for it.
   What a step is made of, for whoever tests or measures it. */
int ctx_multiply(const Matrix *matrix, const float *x, int tokens, float *to) {
    size_t numbers = (size_t)tokens * matrix->columns;
    Arena arena = {0};
    room_for_vectors(&arena, numbers);
    if (!(arena.at = aligned_alloc(64, arena.used))) return 1;
    arena.used = 0;
    Vectors vectors = room_for_vectors(&arena, numbers);
    vectors.length = matrix->columns;
    memcpy(vectors.values, x, numbers * sizeof(float));
    vectors_prepare(&vectors, tokens, matrix);
    const Part part = {matrix, to};
    for (int tile = 0; tile < matrix_tiles(matrix); tile++) {
        Tile values;
        matrix_tile(matrix, tile, &vectors, tokens, values);
        place(&part, tile, tokens, matrix->rows, SET, values);
    }
    free(arena.at);
    return 0;
}
