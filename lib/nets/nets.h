/* SPDX-License-Identifier: Apache-2.0 */
/* nets.h - what the files of lib/nets share: operations that can be applied by name, variables. */
#ifndef RAMET__NETS_H
#define RAMET__NETS_H
#include "graph/op.h"
#include "ramet/graph.h"
#include "train/train.h"

#define RAMET__CALL_IN 8
#define RAMET__CALL_OUT 4
typedef enum {
#define RAMET__CALL(name, signature, summary) RAMET__CALL_##name,
#include "nets/calls.def"
#undef RAMET__CALL
    RAMET__CALLS
} ramet__call;
/* Builds an operation: inputs in the signature's order (-1: left out), settings likewise. out[0] stays -1 after a failure, which the graph holds.
 * Switches, not tables of functions: a third of the bytes. */
void ramet__call_build(ramet__graph *g, ramet__call call, const ramet__val *in, const double *set, ramet__val *out);  /* calls.c */
void ramet__layer_build(ramet__graph *g, ramet__call call, const ramet__val *in, const double *set, ramet__val *out); /* layers.c: what calls.c does not have */
int32_t ramet__call_list(int32_t i, const char **name, const char **detail); /* for ramet_list("graph", i) */

struct ramet_variables {
    ramet_runtime *rt;
    int64_t n, cap;
    struct ramet__variable { ramet__params pool; int32_t trainable, summed; } **item; /* pool of one; summed: a graph writes its gradient */
    const ramet__optimizer *optimizer; /* of the last step */
    int64_t step;
    _Atomic int32_t refs;
};
ramet_variables *ramet__variables_retain(ramet_variables *v);
struct ramet__variable *ramet__variables_find(const ramet_variables *v, const char *name); /* NULL: none; the message is set, RAMET_E_NOT_FOUND */

struct ramet_graph {
    ramet__graph *g;
    ramet_variables **variables; int64_t n, cap; /* retained */
    int64_t context;                             /* most positions of the models inside */
};
ramet_status ramet__nets_check(const ramet_graph *graph);
ramet_status ramet__nets_answer(int32_t *out, ramet_graph *graph, ramet__val v); /* what the graph says about the last call; it can go on */
ramet_status ramet__nets_keep(struct ramet__variable **q, ramet_graph *graph, ramet_variables *v, const char *name); /* variables as long as the graph; q may be NULL */
#endif
