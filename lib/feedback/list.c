/* SPDX-License-Identifier: Apache-2.0 */
/* list.c - every table of the library behind one function: adding an architecture, encoding, op or method adds no symbol. */
#include "feedback/feedback.h"
#include "nets/nets.h"
#include <string.h>

static int32_t encodings(int32_t i, const char **name, const char **detail) {
    if (i < 0 || i >= RAMET__ENC_COUNT) return 0;
    const ramet__encoding *e = ramet__encoding_get((ramet__enc)i);
    *name = e->name;
    *detail = e->summary;
    return 1;
}

static int32_t isas(int32_t i, const char **name, const char **detail) {
    if (i < RAMET_ISA_REF || i > RAMET__ISA_LAST) return 0;
    *name = ramet__cpu_isa_name(i);
    *detail = ramet__cpu_reach(ramet__cpu_detect(), i) == i ? "this machine has it" : "not on this machine";
    return 1;
}

ramet_status ramet_list(const char **name, const char **detail, const char *kind, int32_t index) {
    static const struct { const char *kind; int32_t (*list)(int32_t, const char **, const char **); } tables[] = {
        {"archs", ramet__arch_list}, {"encodings", encodings}, {"ops", ramet__op_list}, {"graph", ramet__call_list}, {"methods", ramet__method_list}, {"kernels", ramet__kernels_list}, {"isas", isas},
        {"optimizers", ramet__optimizer_list}, {"schedules", ramet__schedule_list}};
    const char *n, *d;
    if (!name || !kind) return ramet__fail(RAMET_E_ARGUMENT, "ramet_list: name and kind must not be NULL");
    for (int32_t i = 0; i < RAMET__COUNT(tables); i++) {
        if (strcmp(tables[i].kind, kind)) continue;
        if (!tables[i].list(index, &n, &d)) return ramet__fail(RAMET_E_NOT_FOUND, "ramet_list: %s has no entry %d", kind, index);
        *name = n;
        if (detail) *detail = d;
        return RAMET_OK;
    }
    return ramet__fail(RAMET_E_ARGUMENT, "ramet_list: \"%s\" is not one of archs, encodings, ops, graph, methods, kernels, isas, optimizers, schedules", kind);
}
