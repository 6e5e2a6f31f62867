/* SPDX-License-Identifier: Apache-2.0 */
/* cache.c - see cache.h. The table of a sequence never moves, so a plan's view of it stays good. */
#include "infer/cache.h"

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

void ramet__cache_free(ramet__cache *c) {
    for (int32_t i = 0; c->seqs && i < c->n; i++) {
        if (c->seqs[i].blocks) ramet__cache_cut(c, i, 0);
        ramet__free(c->seqs[i].blocks);
    }
    ramet__free(c->seqs);
    ramet__free(c->views);
}

ramet_status ramet__cache_reserve(ramet__cache *c, int32_t seq, int64_t length) {
    ramet__sequence *s = &c->seqs[seq];
    while (s->n_blocks * c->layout.block < length) {
        void *block = ramet__alloc(c->mem, (size_t)ramet__cache_block_bytes(&c->layout));
        if (!block) return ramet__alloc_status();
        s->blocks[s->n_blocks++] = block;
        c->views[seq].n_blocks = s->n_blocks;
    }
    return RAMET_OK;
}

void ramet__cache_cut(ramet__cache *c, int32_t seq, int64_t length) {
    ramet__sequence *s = &c->seqs[seq];
    while (s->n_blocks && (s->n_blocks - 1) * c->layout.block >= length) ramet__free(s->blocks[--s->n_blocks]);
    c->views[seq].n_blocks = s->n_blocks;
    s->length = length;
}

uint64_t ramet__cache_bytes(const ramet__cache *c) {
    uint64_t blocks = 0;
    for (int32_t i = 0; i < c->n; i++) blocks += (uint64_t)c->seqs[i].n_blocks;
    return blocks * ramet__cache_block_bytes(&c->layout);
}
