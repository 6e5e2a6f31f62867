/* SPDX-License-Identifier: Apache-2.0 */
/* cache.c - see cache.h. The table of a sequence never moves, so a plan's view of it stays good. */
#include "infer/cache.h"
#include <string.h>

ramet_status ramet__cache_init(ramet__cache *c, ramet__mem *mem, const ramet__cache_layout *layout, int32_t sequences, int64_t max_context) {
    *c = (ramet__cache){.mem = mem, .layout = *layout, .n = sequences};
    c->max_blocks = (max_context + layout->block - 1) / layout->block;
    c->seqs = ramet__calloc(mem, (size_t)sequences, sizeof *c->seqs);
    if (!c->seqs) return ramet__alloc_status();
    c->views = ramet__calloc(mem, (size_t)sequences, sizeof *c->views);
    if (!c->views) return ramet__alloc_status();
    for (int32_t i = 0; i < sequences; i++) {
        c->seqs[i].blocks = ramet__calloc(mem, (size_t)c->max_blocks, sizeof *c->seqs[i].blocks);
        if (!c->seqs[i].blocks) return ramet__alloc_status();
        c->views[i].blocks = c->seqs[i].blocks;
    }
    return RAMET_OK;
}

int32_t *ramet__cache_ids(const ramet__cache *c, void *block) { return (int32_t *)(void *)((char *)block + ramet__cache_block_bytes(&c->layout)); }

/* Bytes of keys, values and ids; the count of holders stands behind them. */
static uint64_t room(const ramet__cache *c) { return (ramet__cache_block_bytes(&c->layout) + (uint64_t)c->layout.block * sizeof(int32_t) + 7) / 8 * 8; }

static int64_t *holders(const ramet__cache *c, void *block) { return (int64_t *)(void *)((char *)block + room(c)); }

static void *block_new(ramet__cache *c) {
    void *block = ramet__alloc(c->mem, (size_t)room(c) + sizeof(int64_t));
    if (!block) return NULL;
    *holders(c, block) = 1;
    c->n_blocks++;
    return block;
}

static void block_drop(ramet__cache *c, void *block) {
    if (--*holders(c, block)) return;
    ramet__free(block);
    c->n_blocks--;
}

void ramet__cache_free(ramet__cache *c) {
    for (int32_t i = 0; c->seqs && i < c->n; i++) {
        if (c->seqs[i].blocks) ramet__cache_cut(c, i, 0);
        ramet__free(c->seqs[i].blocks);
    }
    ramet__free(c->seqs);
    ramet__free(c->views);
}

/* The only block that holds positions and will be written, when another sequence holds it too; -1: none. */
static int64_t shared_tail(const ramet__cache *c, const ramet__sequence *s, int64_t length) {
    const int64_t last = s->length / c->layout.block;
    return length > s->length && last < s->n_blocks && *holders(c, s->blocks[last]) > 1 ? last : -1;
}

int64_t ramet__cache_need(const ramet__cache *c, int32_t seq, int64_t length) {
    const ramet__sequence *s = &c->seqs[seq];
    return RAMET__MAX(0, (length + c->layout.block - 1) / c->layout.block - s->n_blocks) + (shared_tail(c, s, length) >= 0);
}

ramet_status ramet__cache_reserve(ramet__cache *c, int32_t seq, int64_t length) {
    ramet__sequence *s = &c->seqs[seq];
    const int64_t last = shared_tail(c, s, length);
    if (last >= 0) {
        void *own = block_new(c);
        if (!own) return ramet__alloc_status();
        memcpy(own, s->blocks[last], (size_t)room(c));
        block_drop(c, s->blocks[last]);
        s->blocks[last] = own;
    }
    while (s->n_blocks * c->layout.block < length) {
        void *block = block_new(c);
        if (!block) return ramet__alloc_status();
        s->blocks[s->n_blocks++] = block;
        c->views[seq].n_blocks = s->n_blocks;
    }
    return RAMET_OK;
}

void ramet__cache_cut(ramet__cache *c, int32_t seq, int64_t length) {
    ramet__sequence *s = &c->seqs[seq];
    while (s->n_blocks && (s->n_blocks - 1) * c->layout.block >= length) block_drop(c, s->blocks[--s->n_blocks]);
    c->views[seq].n_blocks = s->n_blocks;
    s->length = length;
}

void ramet__cache_share(ramet__cache *c, int32_t to, int32_t from, int64_t length) {
    ramet__sequence *t = &c->seqs[to];
    const ramet__sequence *f = &c->seqs[from];
    ramet__cache_cut(c, to, 0);
    while (t->n_blocks * c->layout.block < length) {
        t->blocks[t->n_blocks] = f->blocks[t->n_blocks];
        ++*holders(c, t->blocks[t->n_blocks++]);
    }
    c->views[to].n_blocks = t->n_blocks;
    t->length = length;
}

void ramet__cache_take(ramet__cache *c, int32_t seq, ramet__cache *from) {
    ramet__sequence *to = &c->seqs[seq], *s = &from->seqs[0];
    ramet__cache_cut(c, seq, 0);
    memcpy(to->blocks, s->blocks, (size_t)s->n_blocks * sizeof *s->blocks);
    to->n_blocks = c->views[seq].n_blocks = s->n_blocks;
    to->length = s->length;
    c->n_blocks += from->n_blocks;
    s->n_blocks = from->views[0].n_blocks = s->length = 0;
    from->n_blocks = 0;
}

void ramet__cache_clean(const ramet__cache *c, void *block, int64_t used) {
    const ramet__cache_layout *l = &c->layout;
    const size_t size = l->type == RAMET__CACHE_INT8 ? 1 : l->type == RAMET__CACHE_F16 ? 2 : 4, head = ramet__cache_head_bytes(l), unused = (size_t)(l->block - used);
    const size_t scales = ramet__kv_scales((int64_t)l->block * l->head_dim) + (size_t)used * sizeof(float);
    for (int64_t i = 0; i < l->layers; i++)
        for (int64_t j = 0; j < l->n_kv; j++) {
            char *k = (char *)block + (size_t)(2 * i * l->n_kv + j) * head, *v = k + (size_t)l->n_kv * head; /* a column of K, a row of V each */
            for (int64_t d = 0; d < l->head_dim; d++) memset(k + (size_t)(d * l->block + used) * size, 0, unused * size);
            memset(v + (size_t)(used * l->head_dim) * size, 0, unused * (size_t)l->head_dim * size);
            if (l->type == RAMET__CACHE_INT8) memset(k + scales, 0, unused * sizeof(float)), memset(v + scales, 0, unused * sizeof(float));
        }
}

uint64_t ramet__cache_bytes(const ramet__cache *c) { return c->n_blocks * ramet__cache_block_bytes(&c->layout); }
