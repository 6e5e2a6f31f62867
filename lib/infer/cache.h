/* SPDX-License-Identifier: Apache-2.0 */
/* cache.h - keys and values of sequences in fixed blocks behind a table: a sequence grows by adding blocks between runs, and
 * gives them back when it is cut. The ids that made them are kept beside. Sequences with the same beginning share blocks (Kwon et al. 2023, PagedAttention): a block
 * counts its holders, and who writes into a shared one takes a copy first. Used by session.c, batch.c and state.c. */
#ifndef RAMET__CACHE_H
#define RAMET__CACHE_H
#include "graph/plan.h"

#define RAMET__CACHE_BLOCK 64 /* positions: long enough for a kernel's inner loop, short enough to waste little */

typedef struct ramet__sequence {
    void **blocks;          /* room for every block of max_context positions */
    int64_t n_blocks;
    int64_t length;         /* positions that hold a token */
} ramet__sequence;

typedef struct ramet__cache {
    ramet__mem *mem;
    ramet__cache_layout layout;
    int64_t max_blocks;     /* of a sequence */
    uint64_t n_blocks;      /* allocated, a shared one once */
    int32_t n; ramet__sequence *seqs;
    ramet__seq_view *views; /* what a plan's run reads */
} ramet__cache;

ramet_status ramet__cache_init(ramet__cache *c, ramet__mem *mem, const ramet__cache_layout *layout, int32_t sequences, int64_t max_context);
void ramet__cache_free(ramet__cache *c);
/* Blocks for `length` positions, those from the sequence's end on its own; what a failure added stays allocated, positions are unchanged. */
ramet_status ramet__cache_reserve(ramet__cache *c, int32_t seq, int64_t length);
/* Blocks that this would allocate. */
int64_t ramet__cache_need(const ramet__cache *c, int32_t seq, int64_t length);
/* Keep `length` positions and only the blocks they need. */
void ramet__cache_cut(ramet__cache *c, int32_t seq, int64_t length);
/* `to` holds the first `length` positions of `from`, in the same blocks. */
void ramet__cache_share(ramet__cache *c, int32_t to, int32_t from, int64_t length);
/* What `seq` holds becomes that of sequence 0 of another cache of the same layout and context, which is empty then. */
void ramet__cache_take(ramet__cache *c, int32_t seq, ramet__cache *from);
/* Ids of a block's positions, which stand behind its keys and values; and that of one position. */
int32_t *ramet__cache_ids(const ramet__cache *c, void *block);
static inline int32_t ramet__cache_id(const ramet__cache *c, int32_t seq, int64_t position) {
    return ramet__cache_ids(c, c->seqs[seq].blocks[position / c->layout.block])[position % c->layout.block];
}
/* Zeros to keys and values of a block from position `used` on. */
void ramet__cache_clean(const ramet__cache *c, void *block, int64_t used);
uint64_t ramet__cache_bytes(const ramet__cache *c);
#endif
