/* SPDX-License-Identifier: Apache-2.0 */
/* lineage.c - lineages made, composed and applied. Called by quantize, prune, rebase; a candidate is cut into its variants by
 * the same function that made the first ones, so a variant of version 2 has the shape and channels of its elder. */
#include "shrink/shrink.h"
#include <stdio.h>
#include <string.h>

ramet_status ramet__lineage_step(ramet__lineage *l, ramet__mem *mem, const char *object) {
    size_t old = l->steps ? strlen(l->steps) : 0;
    if (old >= 2 && l->steps[old - 1] == ']') old--; /* reopen the array */
    int32_t empty = old <= 1;
    char *text = ramet__format(mem, "%.*s%s%s]", (int)(empty ? 1 : old), empty ? "[" : l->steps, empty ? "" : ",", object);
    if (!text) return ramet__alloc_status();
    ramet__free(l->steps);
    l->steps = text;
    return RAMET_OK;
}

static ramet_status copy_text(char **dst, ramet__mem *mem, const char *src) {
    if (src && !(*dst = ramet__strdup(mem, src))) return ramet__alloc_status();
    return RAMET_OK;
}

ramet_status ramet__lineage_compose(ramet__lineage **out, ramet__mem *mem, const ramet__lineage *earlier, const ramet__lineage *later) {
    ramet__lineage *l = NULL;
    ramet_status st;
    int32_t with_ff = later->ff || (earlier && earlier->ff);
    RAMET__TRY(ramet__lineage_new(&l, mem, later->n_layer, later->n_ff, with_ff));
    for (int32_t i = 0; i < later->n_layer; i++) {
        int32_t mid = later->layer ? later->layer[i] : i;
        l->layer[i] = earlier && earlier->layer ? earlier->layer[mid] : mid;
        for (int64_t c = 0; with_ff && c < later->n_ff; c++) {
            int32_t ch = later->ff ? later->ff[i * later->n_ff + c] : (int32_t)c;
            l->ff[i * later->n_ff + c] = earlier && earlier->ff ? earlier->ff[mid * earlier->n_ff + ch] : ch;
        }
    }
    RAMET__GO(copy_text(&l->parent_digest, mem, earlier ? earlier->parent_digest : later->parent_digest));
    RAMET__GO(copy_text(&l->root_digest, mem, earlier ? earlier->root_digest : later->root_digest));
    RAMET__GO(copy_text(&l->steps, mem, earlier && earlier->steps ? earlier->steps : "[]"));
    if (later->steps) { /* append the objects of later's array one after another: strip its brackets */
        size_t n = strlen(later->steps);
        if (n > 2) {
            char *inner = ramet__strndup(mem, later->steps + 1, n - 2);
            RAMET__NEW(inner, inner);
            st = ramet__lineage_step(l, mem, inner);
            ramet__free(inner);
            if (st) goto out;
        }
    }
    *out = l;
    return RAMET_OK;
out:
    ramet__lineage_free(l);
    return st;
}

ramet_status ramet__lineage_child(ramet__lineage **map, ramet__lineage **record, const ramet_model *model, int32_t n_layer, const int32_t *layer,
                                  int64_t n_ff, const int32_t *ff, const char *step) {
    ramet__mem *mem = model->rt->mem;
    ramet__lineage *own = NULL, *seen = NULL;
    ramet_status st;
    RAMET__TRY(ramet__lineage_new(&own, mem, n_layer, n_ff, ff != NULL));
    for (int32_t i = 0; i < n_layer; i++) own->layer[i] = layer ? layer[i] : i;
    if (ff) memcpy(own->ff, ff, (size_t)n_layer * (size_t)n_ff * sizeof *ff);
    if (!model->lineage || !model->lineage->parent_digest) {
        const char *digest = ramet_model_digest(model);
        if (!digest) { st = ramet__alloc_status(); goto out; }
        RAMET__GO(copy_text(&own->parent_digest, mem, digest));
        RAMET__GO(copy_text(&own->root_digest, mem, digest));
    }
    RAMET__GO(ramet__lineage_step(own, mem, step));
    RAMET__GO(ramet__lineage_compose(&seen, mem, model->lineage && model->lineage->parent_digest ? model->lineage : NULL, own));
    *map = own;
    *record = seen;
    return RAMET_OK;
out:
    ramet__lineage_free(own);
    ramet__lineage_free(seen);
    return st;
}

ramet__enc ramet__enc_fit(ramet__enc wanted, int64_t cols) {
    if (cols % ramet__encoding_get(wanted)->block) wanted = ramet__encoding_to_write(wanted); /* blocks of 256 are only read */
    return cols % ramet__encoding_get(wanted)->block ? RAMET__ENC_F16 : wanted;
}

/* ---- one weight, some of its rows and columns, another encoding ---- */
#define ROWS_A_PIECE 32
typedef struct select_job {
    const ramet__weight *src;
    const ramet__encoding *to;
    uint8_t *dst;
    const int32_t *rows, *cols;
    int64_t n_rows, n_cols, src_cols;
    uint64_t row_bytes, src_row_bytes;
    int32_t same;   /* encoding and columns unchanged: copy bytes */
    float *scratch; /* per worker: src_cols + n_cols floats */
} select_job;

static ramet_status select_piece(void *context, int64_t piece, int32_t worker) {
    select_job *j = context;
    float *row = j->scratch + (int64_t)worker * (j->src_cols + j->n_cols), *picked = row + j->src_cols;
    int64_t end = RAMET__MIN((piece + 1) * ROWS_A_PIECE, j->n_rows);
    for (int64_t r = piece * ROWS_A_PIECE; r < end; r++) {
        int64_t s = j->rows ? j->rows[r] : r;
        uint8_t *dst = j->dst + (uint64_t)r * j->row_bytes;
        if (j->same) {
            memcpy(dst, (const uint8_t *)ramet__weight_data(j->src) + (uint64_t)s * j->src_row_bytes, j->row_bytes);
            continue;
        }
        ramet__weight_decode(row, j->src, s, s + 1);
        if (j->cols) for (int64_t c = 0; c < j->n_cols; c++) picked[c] = row[j->cols[c]];
        j->to->encode(dst, j->cols ? picked : row, j->n_cols);
    }
    return RAMET_OK;
}

ramet_status ramet__weight_select(ramet__weight **out, ramet_runtime *rt, const ramet__weight *src, const char *name, ramet__enc enc,
                                  const int32_t *rows, int64_t n_rows, const int32_t *cols, int64_t n_cols) {
    const ramet__shape *ss = ramet__weight_shape(src);
    ramet__weight *w = NULL;
    ramet_status st;
    if (cols || enc != ramet__weight_enc(src)) enc = ramet__enc_fit(ramet__encoding_to_write(enc), cols ? n_cols : ramet__shape_cols(ss));
    select_job j = {.src = src, .to = ramet__encoding_get(enc), .rows = rows, .cols = cols, .src_cols = ramet__shape_cols(ss)};
    j.n_rows = rows ? n_rows : ramet__shape_rows(ss);
    j.n_cols = cols ? n_cols : j.src_cols;
    ramet__shape shape = *ss;
    if (shape.rank > 1) shape.dim[0] = j.n_rows;
    shape.dim[shape.rank - 1] = j.n_cols;
    j.same = !cols && enc == ramet__weight_enc(src);
    RAMET__TRY(ramet__weight_new(&w, rt, name, enc, &shape));
    j.dst = ramet__weight_mutable(w);
    j.row_bytes = ramet__encoded_bytes(j.to, j.n_cols);
    j.src_row_bytes = ramet__encoded_bytes(ramet__encoding_get(ramet__weight_enc(src)), j.src_cols);
    RAMET__NEW(j.scratch, ramet__calloc(rt->mem, (size_t)ramet__threads_count(rt->threads) * (size_t)(j.src_cols + j.n_cols), sizeof(float)));
    RAMET__GO(ramet__parallel_for(rt->threads, (j.n_rows + ROWS_A_PIECE - 1) / ROWS_A_PIECE, select_piece, &j, NULL));
    *out = w;
    w = NULL;
out:
    ramet__free(j.scratch);
    ramet__weight_free(w);
    return st;
}

/* ---- a whole model ---- */
ramet_status ramet__lineage_apply(ramet_model **out, ramet_model *parent, const ramet__lineage *l, ramet__lineage *record, ramet__choose_enc choose,
                                  void *user, const ramet__calibration *text) {
    ramet__mem *mem = parent->rt->mem;
    const ramet__hparams *ph = &parent->h;
    ramet__hparams h = *ph;
    ramet__weight **w = NULL, **down = NULL;
    int64_t n = 0, cap;
    ramet_status st;
    if (l->n_layer < 1 || l->n_layer > ph->n_layer || l->n_ff < 1 || l->n_ff > ph->n_ff)
        return ramet__fail(RAMET_E_INCONSISTENT, "lineage wants %d layers of %lld channels; the parent has %d of %lld", l->n_layer, (long long)l->n_ff,
                           ph->n_layer, (long long)ph->n_ff);
    for (int32_t i = 0; i < l->n_layer; i++) {
        if (l->layer && (l->layer[i] < 0 || l->layer[i] >= ph->n_layer))
            return ramet__fail(RAMET_E_INCONSISTENT, "lineage names layer %d of a parent with %d layers", l->layer[i], ph->n_layer);
        for (int64_t c = 0; l->ff && c < l->n_ff; c++)
            if (l->ff[i * l->n_ff + c] < 0 || l->ff[i * l->n_ff + c] >= ph->n_ff)
                return ramet__fail(RAMET_E_INCONSISTENT, "lineage names channel %d of a parent with %lld channels a layer", l->ff[i * l->n_ff + c], (long long)ph->n_ff);
    }
    h.n_layer = l->n_layer;
    h.n_ff = l->n_ff;
    cap = (int64_t)parent->arch->n_specs * RAMET__MAX(h.n_layer, 1);
    RAMET__NEW(w, ramet__calloc(mem, (size_t)cap, sizeof *w));
    RAMET__NEW(down, ramet__calloc(mem, (size_t)h.n_layer, sizeof *down));
    if (l->ff && text->ids) RAMET__GO(ramet__refit(down, parent, l, choose, user, text));
    for (int32_t s = 0; s < parent->arch->n_specs; s++) {
        const ramet__weight_spec *spec = &parent->arch->specs[s];
        int32_t layered = strchr(spec->name, '%') != NULL;
        RAMET__GO(ramet__progress(text->progress, text->progress_user, (double)s / parent->arch->n_specs, "making the variant"));
        for (int32_t i = 0; i < (layered ? h.n_layer : 1); i++) {
            char name[64], source[64];
            if (layered) {
                snprintf(name, sizeof name, spec->name, i);
                snprintf(source, sizeof source, spec->name, l->layer ? l->layer[i] : i);
            } else {
                snprintf(name, sizeof name, "%s", spec->name);
                snprintf(source, sizeof source, "%s", spec->name);
            }
            ramet__weight *src = ramet__model_weight(parent, source);
            if (!src) {
                if (spec->optional) continue;
                st = ramet__fail(RAMET_E_INCONSISTENT, "%s: weight %s is missing", parent->name, source);
                goto out;
            }
            const int32_t *ff = l->ff && layered ? l->ff + (int64_t)i * l->n_ff : NULL;
            const int32_t *rows = spec->rows == RAMET__DIM_FF ? ff : NULL, *cols = spec->cols == RAMET__DIM_FF ? ff : NULL;
            int64_t n_cols = cols ? l->n_ff : ramet__shape_cols(ramet__weight_shape(src));
            ramet__enc enc = spec->rows == RAMET__DIM_ONE ? ramet__weight_enc(src) : ramet__enc_fit(choose(name, src, user), n_cols);
            if (layered && down[i] && !strcmp(name, ramet__weight_name(down[i]))) w[n++] = ramet__weight_retain(down[i]);
            else if (!rows && !cols && enc == ramet__weight_enc(src) && !strcmp(name, source)) w[n++] = ramet__weight_retain(src);
            else {
                RAMET__GO(ramet__weight_select(&w[n], parent->rt, src, name, enc, rows, l->n_ff, cols, l->n_ff));
                n++;
            }
        }
    }
    RAMET__GO(ramet__model_derive(out, parent, &h, w, n, record));
out:
    for (int64_t i = 0; i < n; i++) ramet__weight_free(w[i]);
    for (int32_t i = 0; down && i < h.n_layer; i++) ramet__weight_free(down[i]);
    ramet__free(w);
    ramet__free(down);
    return st;
}
