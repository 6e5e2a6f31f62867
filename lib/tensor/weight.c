/* SPDX-License-Identifier: Apache-2.0 */
/* weight.c - see weight.h. The encoded rows are pages of the file where they can be used as they lie, else memory of our own. */
#include "tensor/weight.h"
#include <pthread.h>
#include <string.h>

/* Packings made together, side by side: decoding streams through all of them, which large pages make half as fast again. All of it is
 * changed under the runtime's lock. */
typedef struct shelf {
    ramet__spare spare;   /* uses: of all packings here, and who fills it */
    ramet__weight *first; /* whose packings stand here */
} shelf;
#define SHELF_HEAD RAMET__ALIGN

struct ramet__weight {
    ramet_runtime *rt;
    int32_t refs;               /* atomic */
    ramet__enc enc;
    ramet__shape shape;
    uint64_t bytes;
    char *name;
    ramet__reader *reader;      /* of mapped pages; NULL: `own` */
    uint64_t offset;
    void *own;
    ramet__weight *whole;       /* whose first rows these are, or NULL */
    const void *data;
    const ramet__product *product[3]; /* by arithmetic; all read one packing */
    pthread_mutex_t lock;       /* of packing; held before the runtime's */
    int64_t uses;               /* of the packing, there or not yet there */
    shelf *shelf;               /* where `packed` stands; NULL: in the rows themselves */
    ramet__weight *beside;      /* the next on the shelf */
    const void *packed;         /* set atomically when packing is complete; NULL again when nobody uses it and its room is wanted */
};

/* Packings are made again for the next plan that wants them. */
static void shelf_drop(ramet__spare *spare) {
    for (ramet__weight *w = ((shelf *)spare)->first; w; w = w->beside) {
        w->shelf = NULL;
        __atomic_store_n(&w->packed, NULL, __ATOMIC_RELEASE);
    }
    ramet__free(spare);
}

static void destroy(ramet__weight *w) {
    pthread_mutex_destroy(&w->lock);
    pthread_mutex_lock(&w->rt->lock);
    if (w->shelf) {
        ramet__weight **at = &w->shelf->first;
        while (*at != w) at = &(*at)->beside;
        *at = w->beside;
        w->shelf->spare.uses -= w->uses;
        if (!w->shelf->first && !w->shelf->spare.uses) ramet__spare_drop(w->rt, &w->shelf->spare);
    }
    pthread_mutex_unlock(&w->rt->lock);
    ramet__free(w->own);
    ramet__weight_free(w->whole);
    ramet__reader_free(w->reader);
    ramet__free(w->name);
    ramet_runtime *rt = w->rt;
    ramet__free(w);
    ramet_runtime_free(rt);
}

/* A weight without its rows. */
static ramet_status make(ramet__weight **out, ramet_runtime *rt, const char *name, ramet__enc enc, const ramet__shape *shape) {
    ramet_status st = RAMET_OK;
    const ramet__encoding *e = ramet__encoding_get(enc);
    ramet__weight *w;
    int64_t count = 1;
    if (!e || shape->rank < 0 || shape->rank > RAMET__MAX_RANK)
        return ramet__fail(RAMET_E_ARGUMENT, "weight \"%s\": unknown encoding or rank", name);
    for (int32_t i = 0; i < shape->rank; i++) {
        int64_t d = shape->dim[i];
        if (d < 0 || (d && count > INT64_MAX / 4 / d))
            return ramet__fail(RAMET_E_INCONSISTENT, "weight \"%s\": its dimensions are negative or their product is beyond 2^61",
                               name);
        count *= d;
    }
    if (ramet__shape_cols(shape) % e->block)
        return ramet__fail(RAMET_E_INCONSISTENT, "weight \"%s\": rows of %lld are not a multiple of %s's block of %d", name,
                           (long long)ramet__shape_cols(shape), e->name, e->block);
    RAMET__NEW(w, ramet__calloc(rt->mem, 1, sizeof *w));
    if (pthread_mutex_init(&w->lock, NULL)) {
        ramet__free(w);
        return ramet__fail(RAMET_E_MEMORY, "weight \"%s\": no mutex could be made", name);
    }
    w->rt = ramet__runtime_retain(rt);
    w->refs = 1;
    w->enc = enc;
    w->shape = *shape;
    w->bytes = ramet__encoded_bytes(e, count);
    w->name = ramet__strdup(rt->mem, name);
    if (!w->name) {
        st = ramet__alloc_status();
        destroy(w);
        goto out;
    }
    *out = w;
out:
    return st;
}

/* Kernels load floats and fp16 scales: mapped rows must lie where such loads are allowed. */
static int aligned(const void *p, ramet__enc enc) { return (uintptr_t)p % (enc == RAMET__ENC_F32 ? 4 : 2) == 0; }

ramet_status ramet__weight_from_reader(ramet__weight **out, ramet_runtime *rt, const char *name, ramet__enc enc,
                                       const ramet__shape *shape, ramet__reader *reader, uint64_t offset) {
    ramet_status st = RAMET_OK;
    ramet__weight *w = NULL;
    RAMET__GO(make(&w, rt, name, enc, shape));
    uint64_t size = ramet__reader_size(reader);
    if (offset > size || w->bytes > size - offset) {
        st = ramet__fail(RAMET_E_FORMAT, "%s: weight \"%s\" wants %llu bytes at byte %llu, but the file has %llu",
                         ramet__reader_name(reader), name, (unsigned long long)w->bytes, (unsigned long long)offset,
                         (unsigned long long)size);
        goto out;
    }
    const void *mapped = ramet__reader_map(reader, offset, w->bytes);
    if (mapped && aligned(mapped, enc)) {
        w->reader = ramet__reader_retain(reader);
        w->offset = offset;
        w->data = mapped;
    } else {
        RAMET__NEW(w->own, ramet__alloc(rt->mem, (size_t)(w->bytes + !w->bytes)));
        RAMET__GO(ramet__reader_read(reader, w->own, offset, w->bytes));
        w->data = w->own;
    }
    *out = w;
    w = NULL;
out:
    ramet__weight_free(w);
    return st;
}

ramet_status ramet__weight_new(ramet__weight **out, ramet_runtime *rt, const char *name, ramet__enc enc,
                               const ramet__shape *shape) {
    ramet_status st = RAMET_OK;
    ramet__weight *w = NULL;
    RAMET__GO(make(&w, rt, name, enc, shape));
    RAMET__NEW(w->own, ramet__calloc(rt->mem, 1, (size_t)(w->bytes + !w->bytes)));
    w->data = w->own;
    *out = w;
    w = NULL;
out:
    ramet__weight_free(w);
    return st;
}

ramet_status ramet__weight_first(ramet__weight **out, ramet__weight *w, int64_t rows) {
    ramet__shape shape = w->shape;
    shape.dim[0] = rows;
    RAMET__TRY(make(out, w->rt, w->name, w->enc, &shape));
    (*out)->whole = ramet__weight_retain(w);
    (*out)->data = w->data;
    return RAMET_OK;
}

ramet__weight *ramet__weight_retain(ramet__weight *w) {
    __atomic_fetch_add(&w->refs, 1, __ATOMIC_RELAXED);
    return w;
}

void ramet__weight_free(ramet__weight *w) {
    if (w && __atomic_sub_fetch(&w->refs, 1, __ATOMIC_ACQ_REL) == 0) destroy(w);
}

void *ramet__weight_mutable(ramet__weight *w) { return w->own; }
const char *ramet__weight_name(const ramet__weight *w) { return w->name; }
ramet__enc ramet__weight_enc(const ramet__weight *w) { return w->enc; }
const ramet__shape *ramet__weight_shape(const ramet__weight *w) { return &w->shape; }
uint64_t ramet__weight_bytes(const ramet__weight *w) { return w->bytes; }
const void *ramet__weight_data(const ramet__weight *w) { return w->data; }

static uint64_t row_bytes(const ramet__weight *w) { return ramet__encoded_bytes(ramet__encoding_get(w->enc),
        ramet__shape_cols(&w->shape)); }

void ramet__weight_decode(float *dst, const ramet__weight *w, int64_t r0, int64_t r1) {
    const uint8_t *rows = w->data;
    ramet__encoding_get(w->enc)->decode(dst, rows + (uint64_t)r0 * row_bytes(w), (r1 - r0) * ramet__shape_cols(&w->shape));
}

/* ---- work over ranges of rows ---------------------------------------------------------------------------------- */

typedef struct ranges { const ramet__weight *w; const ramet__packing *packing; void *packed; int64_t n, k, rows; } ranges;

/* Rows a piece takes: a multiple of `block`, about 256 KiB of source. */
static int64_t rows_a_piece(const ramet__weight *w, int64_t block) {
    int64_t rows = (int64_t)(262144 / RAMET__MAX(row_bytes(w), (uint64_t)1));
    return RAMET__MAX(rows / block, 1) * block;
}

static ramet_status check_piece(void *context, int64_t piece, int32_t worker) {
    const ranges *r = context;
    const uint8_t *rows = r->w->data;
    int64_t from = piece * r->rows, to = RAMET__MIN(from + r->rows, r->n);
    return ramet__encoded_finite(r->w->enc, rows + (uint64_t)from * row_bytes(r->w), (to - from) * r->k) ? RAMET_OK
        : RAMET_E_INCONSISTENT;
}

ramet_status ramet__weight_check(const ramet__weight *w) {
    ranges r = {.w = w, .n = ramet__shape_rows(&w->shape), .k = ramet__shape_cols(&w->shape), .rows = rows_a_piece(w, 1)};
    int64_t failed = 0;
    ramet_status st = ramet__parallel_for(w->rt->threads, (r.n + r.rows - 1) / r.rows, check_piece, &r, &failed);
    if (w->reader) ramet__reader_drop(w->reader, w->offset, w->bytes); /* packing reads it again, one weight at a time */
    if (st != RAMET_E_INCONSISTENT) return st;
    int64_t row = failed * r.rows;
    const uint8_t *rows = w->data;
    while (row + 1 < r.n && ramet__encoded_finite(w->enc, rows + (uint64_t)row * row_bytes(w), r.k)) row++;
    return ramet__fail(st, "the weight %s holds NaN or infinity in row %lld; the file is damaged", w->name, (long long)row);
}

static ramet_status pack_piece(void *context, int64_t piece, int32_t worker) {
    const ranges *r = context;
    int64_t from = piece * r->rows, to = RAMET__MIN(from + r->rows, r->n);
    r->packing->pack(r->packed, r->w->data, r->n, r->k, from, to);
    return RAMET_OK;
}

/* The products of a weight; bytes: of the packing that they read. Any thread comes to the same answers. */
static ramet_status choose(ramet__weight *w, uint64_t *bytes) {
    const char *encoding = ramet__encoding_get(w->enc)->name;
    const ramet__product *product[RAMET__COUNT(w->product)];
    for (int32_t i = 0; i < RAMET__COUNT(product); i++) {
        product[i] = ramet__kernels_product(w->rt->kernels, encoding, i);
        if (!product[i]) return ramet__fail(RAMET_E_UNSUPPORTED, "weight \"%s\": no kernel multiplies %s", w->name, encoding);
    }
    const ramet__packing *packing = product[0]->packing;
    if (product[RAMET__EXACT]->packing != packing || product[RAMET__BRAIN]->packing != packing)
        return ramet__fail(RAMET_E_INTERNAL, "weight \"%s\": two packings for %s", w->name, encoding);
    *bytes = packing->in_place ? 0 : packing->bytes(ramet__shape_rows(&w->shape), ramet__shape_cols(&w->shape));
    if (*bytes > SIZE_MAX / 2) return ramet__fail(RAMET_E_LIMIT, "weight \"%s\": its packing does not fit into memory", w->name);
    *bytes = RAMET__ROUND_UP(*bytes, (uint64_t)RAMET__ALIGN);
    memcpy(w->product, product, sizeof product);
    return RAMET_OK;
}

static ramet_status pack_locked(ramet__weight *w, shelf *s, void *packed, uint64_t bytes) {
    const ramet__packing *packing = w->product[0]->packing;
    if (packing->in_place) {
        __atomic_store_n(&w->packed, w->data, __ATOMIC_RELEASE);
        return RAMET_OK;
    }
    memset(packed, 0, (size_t)bytes); /* a last panel may have rows that nobody packs */
    ranges r = {.w = w, .packing = packing, .packed = packed, .n = ramet__shape_rows(&w->shape), .k = ramet__shape_cols(&w->shape),
                .rows = rows_a_piece(w, packing->n_block)};
    RAMET__TRY(ramet__parallel_for(w->rt->threads, (r.n + r.rows - 1) / r.rows, pack_piece, &r, NULL));
    pthread_mutex_lock(&w->rt->lock);
    w->shelf = s;
    w->beside = s->first;
    s->first = w;
    s->spare.uses += w->uses;
    __atomic_store_n(&w->packed, (const void *)packed, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&w->rt->lock);
    if (w->reader) ramet__reader_drop(w->reader, w->offset, w->bytes);
    return RAMET_OK;
}

static void use(ramet__weight *const *w, int64_t n, int64_t more) {
    if (n == 0) return;
    pthread_mutex_lock(&w[0]->rt->lock);
    for (int64_t i = 0; i < n; i++) {
        w[i]->uses += more;
        if (w[i]->shelf) w[i]->shelf->spare.uses += more;
    }
    pthread_mutex_unlock(&w[0]->rt->lock);
}
void ramet__weights_release(ramet__weight *const *w, int64_t n) { use(w, n, -1); }

ramet_status ramet__weights_pack(ramet__weight *const *w, int64_t n) {
    ramet_status st = RAMET_OK;
    ramet_runtime *rt = n ? w[0]->rt : NULL;
    shelf *s = NULL;
    uint64_t bytes, all = SHELF_HEAD, at = SHELF_HEAD;
    use(w, n, 1);
    for (int64_t i = 0; i < n; i++) {
        if (__atomic_load_n(&w[i]->packed, __ATOMIC_ACQUIRE)) continue;
        pthread_mutex_lock(&w[i]->lock);
        st = w[i]->packed ? RAMET_OK : choose(w[i], &bytes);
        if (!st && !w[i]->packed) all += bytes;
        pthread_mutex_unlock(&w[i]->lock);
        RAMET__GO(st);
    }
    if (all > SIZE_MAX / 2) RAMET__GO(ramet__fail(RAMET_E_LIMIT, "the packings of %lld weights do not fit into memory", (long long)n));
    if (all > SHELF_HEAD) {
        RAMET__NEW(s, ramet__alloc(rt->mem, (size_t)all));
        pthread_mutex_lock(&rt->lock);
        *s = (shelf){{rt->spares, 1, shelf_drop}, NULL};
        rt->spares = &s->spare;
        pthread_mutex_unlock(&rt->lock);
    }
    for (int64_t i = 0; i < n; i++) {
        if (__atomic_load_n(&w[i]->packed, __ATOMIC_ACQUIRE)) continue;
        pthread_mutex_lock(&w[i]->lock);
        if (!w[i]->packed) { /* else another plan was faster, and its room here stays empty */
            st = choose(w[i], &bytes);
            if (!st) st = pack_locked(w[i], s, (char *)s + at, bytes);
            at += bytes;
        }
        pthread_mutex_unlock(&w[i]->lock);
        RAMET__GO(st);
    }
out:
    if (s) {
        pthread_mutex_lock(&rt->lock);
        if (--s->spare.uses == 0 && !s->first) ramet__spare_drop(rt, &s->spare);
        pthread_mutex_unlock(&rt->lock);
    }
    if (st) ramet__weights_release(w, n);
    return st;
}

void ramet__weight_leave_source(const ramet__weight *w) {
    if (w->reader) ramet__reader_drop(w->reader, 0, ramet__reader_size(w->reader));
}

const void *ramet__weight_packed(const ramet__weight *w) { return __atomic_load_n(&w->packed, __ATOMIC_ACQUIRE); }
const ramet__product *ramet__weight_product(const ramet__weight *w, int32_t arithmetic) { return w->product[arithmetic]; }
