/* SPDX-License-Identifier: Apache-2.0 */
/* cycle.h - one run of the whole loop: what was asked, what came out, and the steps that fill it in. */
#ifndef CYCLE_H
#define CYCLE_H
#include "cli.h"

#define MAX_DOMAINS 8
#define MAX_TEXTS (MAX_DOMAINS + 2) /* domains, then general, then chat */
#define N_SHAPES 2
#define MAX_METHODS 8

/* A measured loss; low..high: the paired 95% interval of the difference to what it is compared with. */
typedef struct measure { double loss, difference, low, high; int64_t tokens; } measure;
typedef struct domain_text { char name[32], train[512], valid[512], test[512]; } domain_text;
/* A kind of variant that the parent gives birth to. */
typedef struct shape { const char *name; char path[512]; double bytes, parameters, tok_s; } shape;
/* One variant in one domain. */
typedef struct child { int shape, domain; char lora[512], update[512]; measure before, after; double update_bytes, tokens, seconds; } child;
typedef struct verdict { const char *method; int shape, ran, passed; char path[512], why[512]; double gain, worst, bytes, rounding; measure text[MAX_TEXTS]; } verdict;

typedef struct cycle {
    cli *c;
    const char *parent, *dir;
    char self[512], store[512], brief[512], head[512];
    int n_domains, n_texts;              /* texts: domains, and general and chat where given */
    domain_text texts[MAX_TEXTS];
    int has_general, has_chat;
    const char *probe;
    list topics;
    int steps, batch, window, rank, probe_windows, topic_windows, turn, turns, seed;
    double lr, keep;
    int64_t eval_tokens;
    shape shapes[N_SHAPES];
    child children[N_SHAPES * MAX_DOMAINS]; int n_children;
    verdict verdicts[MAX_METHODS]; int n_verdicts, chosen; /* chosen -1: none passed */
    double parent_bytes, parent_tok_s, new_bytes, new_tok_s, brief_bytes;
    measure old_test[MAX_TEXTS], new_test[MAX_TEXTS];
    char prompt[512], reply[2][1024];
    double started;
    jbuf turns_json;
} cycle;

/* cycle_data.c: cut NAME=FILE (or NAME=TRAIN,VALID,TEST) by document. Exit code. */
int cycle_texts(cycle *y, const list *domains, const char *general, const char *chat);
/* cycle_process.c: this program again, as processes of their own. args end with NULL. *out: its stdout, caller frees. */
int cycle_run(cycle *y, char **out, const char *const *args);
typedef struct job { const char *args[40]; char *out; int code; } job;
int cycle_run_all(cycle *y, job *jobs, int n); /* at once, one thread each, at most as many as there are processors */
/* cycle_report.c */
void cycle_print(const cycle *y);
void cycle_json(cycle *y);               /* this turn's object onto turns_json */
int cycle_write(const cycle *y);         /* loop.json, loop.svg */
#endif
