/* SPDX-License-Identifier: Apache-2.0 */
/* quantize.c - the same model with its weights in another encoding, rounded to nearest block by block. */
#include "shrink/shrink.h"
#include <string.h>

void ramet_quantize_options_init(ramet_quantize_options *options, uint32_t struct_size) {
    ramet_quantize_options o = {.struct_size = struct_size, .encoding = "Q4_0", .algorithm = "nearest"};
    ramet__options_init(options, struct_size, &o, sizeof o);
}

typedef struct choice { ramet__enc body, head; } choice;

static ramet__enc choose(const char *name, const ramet__weight *source, void *user) {
    const choice *c = user;
    (void)source;
    return !strncmp(name, "token_embd.", 11) || !strncmp(name, "output.", 7) ? c->head : c->body;
}

ramet_status ramet_quantize(ramet_model **out, ramet_model *model, const ramet_quantize_options *options) {
    ramet_quantize_options o;
    ramet__lineage *map = NULL, *record = NULL;
    char *step = NULL;
    choice c;
    ramet_status st;
    if (!out || !model) return ramet__fail(RAMET_E_ARGUMENT, "ramet_quantize: out and model must not be NULL");
    RAMET__TRY(ramet__runtime_check(model->rt));
    ramet_quantize_options_init(&o, sizeof o);
    RAMET__TRY(ramet__options(&o, sizeof o, options, "ramet_quantize"));
    if (!o.algorithm || strcmp(o.algorithm, "nearest"))
        return ramet__fail(RAMET_E_UNSUPPORTED, "algorithm \"%s\" is not in this build; it has: nearest", o.algorithm ? o.algorithm : "");
    RAMET__TRY(ramet__encoding_named(&c.body, o.encoding ? o.encoding : "Q4_0", "encoding"));
    if (o.head) RAMET__TRY(ramet__encoding_named(&c.head, o.head, "head"));
    else c.head = ramet__encoding_get(c.body)->block == 1 ? c.body : RAMET__ENC_Q8_0;
    RAMET__NEW(step, ramet__format(model->rt->mem, "{\"step\":\"quantize\",\"encoding\":\"%s\",\"head\":\"%s\"}", ramet__encoding_get(c.body)->name, ramet__encoding_get(c.head)->name));
    RAMET__GO(ramet__lineage_child(&map, &record, model, model->h.n_layer, NULL, model->h.n_ff, NULL, step));
    const ramet__calibration none = {.progress = o.progress, .progress_user = o.progress_user};
    RAMET__GO(ramet__lineage_apply(out, model, map, record, choose, &c, &none));
    record = NULL;
out:
    ramet__lineage_free(map);
    ramet__lineage_free(record);
    ramet__free(step);
    return st;
}
