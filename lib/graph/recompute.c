/* SPDX-License-Identifier: Apache-2.0 */
/* recompute.c - how a plan is made to fit: which results are kept from the forward part to the backward part, and which are computed a second
 * time there (Chen et al. 2016, arXiv:1604.06174; chosen one by one as in Kirisame et al. 2021, arXiv:2006.09616).
 *
 * A choice is one number for each step: the step before which it runs again, or NEVER. All readers from there on read the second result, so
 * every choice gives the same bits, and the lives of all results follow from it. Norms and activations are always chosen where they are read
 * again far away and their inputs are there: a few percent of the time, a third of the memory. Under a budget the step at which most bytes are
 * alive is relieved again and again: for each later step that reads something which only lies there now, what would have to run again before
 * it (a chain back to what is there then) is put beside the bytes that this frees, and the most bytes for the work are taken first. When that
 * is not enough, steps with much scratch take fewer rows at a time. */
#include "graph/op.h"
#include <inttypes.h>
#include <string.h>

#define NEVER INT32_MAX
#define FAR 24      /* steps between two readers */
#define CHAIN 64    /* steps that run again together */
#define PLAIN 8.0   /* a result that is no product costs a pass through memory, as so many multiplications */

typedef struct chain { /* steps that would run again before step `before` */
    int32_t step[CHAIN], n, before;
    double work;
    uint64_t freed;
} chain;

typedef struct search {
    ramet__plan *p;
    ramet__arena room;
    ramet__step *base; /* as prepared, each once */
    int64_t n;
    int32_t *again;
    double *work;
    int32_t *maker;    /* of each value; -1: a leaf */
    /* the steps in their order: step * 2 + (1: the second time) */
    int32_t *order, *place, *bucket, *link; /* place: where the group before a step begins; lists of steps by `again` */
    int64_t n_order;
    uint8_t *made;              /* of each value: which of its two results is read now */
    int64_t *first, *last;      /* of each result (value * 2 + second): places; last -1: not made */
    int64_t *change;            /* bytes alive at a place against the one before */
    int64_t peak;               /* bytes, at place `at` */
    int64_t at;
    int32_t *best;              /* the choice with the smallest arena so far */
    int32_t *anchor;            /* of values that only lie there at the peak: the step before which they are wanted next, else -1 */
    int32_t *head, *next;       /* lists of them by anchor */
    double *ratio;              /* of each anchor; below 0: not worth it, or used */
    int32_t *touched, *mark;    /* of each step: by the present choice, by the chain in hand */
    int32_t round, stamp;
} search;

static int64_t value(const search *s, const ramet__pval *v) { /* index of one that a step makes, or -1 */
    const int64_t i = v ? v - s->p->vals : -1;
    return i >= 0 && s->maker[i] >= 0 ? i : -1;
}

static ramet_status search_init(search *s, ramet__plan *p) {
    s->p = p;
    s->room.mem = p->rt->mem;
    s->base = p->steps;
    s->n = p->n_steps;
    const size_t n = (size_t)s->n + 1, v = (size_t)p->n_vals + 1;
    struct { void *at; size_t bytes; } want[] = {
        {&s->again, n * 4}, {&s->best, n * 4}, {&s->work, n * sizeof(double)}, {&s->maker, v * 4}, {&s->order, n * 8}, {&s->place, n * 4}, {&s->bucket, n * 4}, {&s->link, n * 4}, {&s->made, v},
        {&s->first, v * 16}, {&s->last, v * 16}, {&s->change, n * 16 + 16}, {&s->anchor, v * 4}, {&s->head, n * 4}, {&s->next, v * 4}, {&s->ratio, n * sizeof(double)},
        {&s->touched, n * 4}, {&s->mark, n * 4}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        void *made = ramet__arena_alloc(&s->room, want[i].bytes);
        if (!made) return ramet__alloc_status();
        memcpy(want[i].at, &made, sizeof made);
    }
    for (int64_t i = 0; i < p->n_vals; i++) s->maker[i] = -1;
    for (int64_t i = 0; i < s->n; i++) {
        const ramet__step *t = &s->base[i];
        if (t->op == &ramet__opdef_tap) continue;
        for (int32_t j = 0; j < t->n_out; j++)
            if (t->out[j] && !t->out[j]->leaf) {
                s->maker[t->out[j] - p->vals] = (int32_t)i;
                s->work[i] += PLAIN * (double)(t->out[j]->fixed * t->out[j]->cols);
            }
        if (t->op->work) s->work[i] += t->op->work(p, t);
    }
    return RAMET_OK;
}

/* ---- the order and the lives that follow from a choice ---- */
static void arrange(search *s) {
    s->n_order = 0;
    for (int64_t i = 0; i < s->n; i++) s->bucket[i] = -1;
    for (int32_t i = (int32_t)s->n - 1; i >= 0; i--)
        if (s->again[i] != NEVER) {
            s->link[i] = s->bucket[s->again[i]];
            s->bucket[s->again[i]] = i;
        }
    for (int32_t i = 0; i < s->n; i++) {
        s->place[i] = (int32_t)s->n_order;
        for (int32_t j = s->bucket[i]; j >= 0; j = s->link[j]) s->order[s->n_order++] = 2 * j + 1;
        s->order[s->n_order++] = 2 * i;
    }
}

static const ramet__step *step_at(const search *s, int64_t place, int32_t *second) {
    *second = s->order[place] & 1;
    return &s->base[s->order[place] >> 1];
}

static void results(const search *s, const ramet__step *t, int32_t second) {
    for (int32_t j = 0; j < t->n_out; j++) {
        const int64_t v = t->op == &ramet__opdef_tap ? -1 : value(s, t->out[j]);
        if (v >= 0) s->made[v] = (uint8_t)second;
    }
}

static void lives(search *s) {
    ramet__plan *p = s->p;
    int32_t second;
    arrange(s);
    for (int64_t i = 0; i < 2 * p->n_vals; i++) s->last[i] = -1;
    for (int64_t at = 0; at < s->n_order; at++) {
        const ramet__step *t = step_at(s, at, &second);
        for (int32_t k = 0; k < t->n_in; k++) {
            const int64_t v = value(s, t->in[k]);
            if (v >= 0) s->last[2 * v + s->made[v]] = at;
        }
        results(s, t, second);
        for (int32_t j = 0; j < t->n_out; j++) {
            const int64_t v = t->op == &ramet__opdef_tap ? -1 : value(s, t->out[j]);
            if (v >= 0) s->first[2 * v + second] = s->last[2 * v + second] = at;
        }
    }
    for (int64_t v = 0; v < p->n_vals; v++)
        if (p->vals[v].keep && s->maker[v] >= 0) s->last[2 * v] = s->n_order;
}

/* An input that dies here and gives its place to a result is not counted here: that result is. */
static void hand_over(search *s, const ramet__step *t, int64_t at) {
    uint32_t given = 0;
    for (int32_t j = 0; j < t->n_out; j++)
        for (int32_t k = 0; t->out[j] && k < t->n_in; k++) {
            const int64_t v = value(s, t->in[k]);
            if (v < 0 || !ramet__overwrites(t, j, k) || (given >> k & 1) || s->last[2 * v + s->made[v]] != at || !ramet__same_size(t->in[k], t->out[j])) continue;
            given |= 1u << k;
            s->change[at] -= (int64_t)ramet__value_bytes(t->in[k]);
            s->change[at + 1] += (int64_t)ramet__value_bytes(t->in[k]);
            break;
        }
}

static void find_peak(search *s) {
    const ramet__plan *p = s->p;
    int32_t second;
    int64_t now = 0;
    lives(s);
    memset(s->change, 0, (size_t)(s->n_order + 2) * sizeof *s->change);
    for (int64_t i = 0; i < 2 * p->n_vals; i++) {
        if (s->last[i] < 0) continue;
        s->change[s->first[i]] += (int64_t)ramet__value_bytes(&p->vals[i / 2]);
        s->change[s->last[i] + 1] -= (int64_t)ramet__value_bytes(&p->vals[i / 2]);
    }
    for (int64_t at = 0; at < s->n_order; at++) {
        const ramet__step *t = step_at(s, at, &second);
        hand_over(s, t, at);
        results(s, t, second);
    }
    s->peak = -1;
    for (int64_t at = 0; at < s->n_order; at++) {
        now += s->change[at];
        const int64_t all = now + (int64_t)ramet__align(step_at(s, at, &second)->shared_bytes);
        if (all > s->peak) {
            s->peak = all;
            s->at = at;
        }
    }
}

/* ---- what could run again ---- */
static void find_candidates(search *s) {
    const ramet__plan *p = s->p;
    int32_t second;
    for (int64_t v = 0; v < p->n_vals; v++) s->anchor[v] = -1;
    for (int64_t i = 0; i < s->n; i++) s->head[i] = -1;
    for (int64_t at = 0; at < s->n_order; at++) {
        const ramet__step *t = step_at(s, at, &second);
        for (int32_t k = 0; at >= s->at && k < t->n_in; k++) {
            const int64_t v = value(s, t->in[k]);
            if (v < 0 || s->made[v] || s->anchor[v] != -1 || s->first[2 * v] >= s->at) continue;
            const int32_t m = s->maker[v], i = s->order[at] >> 1, before = second ? s->again[i] : i;
            s->anchor[v] = NEVER; /* at the peak it is at work, or it stays anyway */
            if (at == s->at || s->again[m] != NEVER || s->base[m].op->once || p->vals[v].keep) continue;
            s->anchor[v] = before;
            s->next[v] = s->head[before];
            s->head[before] = (int32_t)v;
        }
        results(s, t, second);
    }
}

/* Adds a step and what it needs and is not there then. 0: it cannot be. */
static int32_t add(search *s, chain *c, int32_t step) {
    const ramet__step *t = &s->base[step];
    if (s->mark[step] == s->stamp) return 1;
    if (c->n == CHAIN || t->op->once || s->touched[step] == s->round || step >= c->before) return 0;
    s->mark[step] = s->stamp;
    c->step[c->n++] = step;
    if (s->again[step] == NEVER) c->work += s->work[step];
    for (int32_t j = 0; j < t->n_out; j++) {
        const int64_t v = value(s, t->out[j]);
        if (v >= 0 && s->anchor[v] != NEVER && s->anchor[v] >= c->before) c->freed += ramet__value_bytes(t->out[j]);
    }
    for (int32_t k = 0; k < t->n_in; k++) {
        const int64_t v = value(s, t->in[k]);
        if (v < 0 || s->again[s->maker[v]] <= c->before) continue;
        if (s->touched[s->maker[v]] != s->round && s->last[2 * v] >= s->place[c->before]) continue;
        if (!add(s, c, s->maker[v])) return 0;
    }
    return 1;
}
static double worth(const chain *c) { return c->n ? (double)c->freed / RAMET__MAX(1.0, c->work) : -1.0; }

static chain extended(search *s, const chain *from, int32_t step) { /* n 0: it cannot be */
    chain c = *from;
    s->stamp++;
    for (int32_t i = 0; i < c.n; i++) s->mark[c.step[i]] = s->stamp;
    if (!add(s, &c, step)) c.n = 0;
    return c;
}

/* The best chain before one step: the best single value wanted there, then others while they make it better. */
static chain best_chain(search *s, int32_t before) {
    const chain none = {.before = before};
    chain best = none;
    for (int32_t v = s->head[before]; v >= 0; v = s->next[v]) {
        const chain c = extended(s, &none, s->maker[v]);
        if (worth(&c) > worth(&best)) best = c;
    }
    for (int32_t v = s->head[before]; v >= 0 && best.n; v = s->next[v]) {
        const chain c = extended(s, &best, s->maker[v]);
        if (worth(&c) >= worth(&best)) best = c;
    }
    return best;
}

/* Relieve the peak down to `target` bytes, as far as one look at it can tell. 0: nothing is left to be done. */
static int32_t relieve(search *s, int64_t target) {
    int64_t excess = s->peak - target;
    int32_t done = 0;
    find_candidates(s);
    s->round++;
    for (int32_t i = 0; i < s->n; i++) {
        s->ratio[i] = -1.0;
        if (s->head[i] < 0) continue;
        const chain c = best_chain(s, i);
        s->ratio[i] = worth(&c);
    }
    while (excess > 0) {
        int32_t best = -1;
        for (int32_t i = 0; i < s->n; i++) /* of equals the last: its results lie there longest */
            if (s->ratio[i] > 0.0 && (best < 0 || s->ratio[i] >= s->ratio[best])) best = i;
        if (best < 0) break;
        const chain c = best_chain(s, best); /* without what was taken in this round */
        s->ratio[best] = -1.0;
        for (int32_t i = 0; c.freed && i < c.n; i++) {
            s->again[c.step[i]] = best;
            s->touched[c.step[i]] = s->round;
            done = 1;
        }
        excess -= (int64_t)c.freed;
    }
    return done;
}

/* ---- the plan that a choice gives ---- */
static ramet_status build(search *s) {
    ramet__plan *p = s->p;
    int64_t n_again = 0, at = 0;
    int32_t second;
    arrange(s);
    for (int64_t i = 0; i < s->n; i++)
        for (int32_t j = 0; s->again[i] != NEVER && j < s->base[i].n_out; j++) n_again += s->base[i].out[j] != NULL;
    if (p->steps != s->base) ramet__free(p->steps);
    ramet__free(p->again);
    p->steps = NULL;
    p->n_steps = 0;
    p->again = ramet__calloc(p->rt->mem, (size_t)n_again + 1, sizeof *p->again);
    if (!p->again) return ramet__alloc_status();
    p->steps = ramet__calloc(p->rt->mem, (size_t)s->n_order + 1, sizeof *p->steps);
    if (!p->steps) return ramet__alloc_status();
    memset(s->made, 0, (size_t)p->n_vals);
    p->n_steps = s->n_order;
    p->work = p->again_work = 0.0;
    for (int64_t i = 0; i < p->n_vals; i++) s->first[i] = -1; /* of the second results: where in p->again */
    for (int64_t i = 0; i < s->n_order; i++) {
        ramet__step *t = &p->steps[i];
        *t = *step_at(s, i, &second);
        t->again = second;
        p->work += s->work[s->order[i] >> 1];
        if (second) p->again_work += s->work[s->order[i] >> 1];
        for (int32_t k = 0; k < t->n_in; k++) {
            const int64_t v = value(s, t->in[k]);
            if (v >= 0 && s->made[v]) t->in[k] = &p->again[s->first[v]];
        }
        if (t->op == &ramet__opdef_tap) t->out[0] = t->in[0];
        results(s, t, second);
        for (int32_t j = 0; second && j < t->n_out; j++) {
            const int64_t v = value(s, t->out[j]);
            if (v < 0) continue;
            p->again[at] = p->vals[v];
            p->again[at].keep = 0;
            t->out[j] = &p->again[at];
            s->first[v] = at++;
        }
    }
    return ramet__plan_layout(p);
}

static int32_t reads(const ramet__step *t, const ramet__pval *v) {
    for (int32_t k = 0; k < t->n_in; k++)
        if (t->in[k] == v) return 1;
    return 0;
}

static void choose_cheap(search *s) {
    for (int64_t i = 0; i < s->n; i++) s->again[i] = NEVER;
    lives(s);
    for (int64_t i = 0; i < s->n; i++) {
        const ramet__step *t = &s->base[i];
        if ((t->op != &ramet__opdef_rms_norm && t->op != &ramet__opdef_swiglu) || t->out[0]->keep) continue;
        int64_t at = i, far = -1;
        for (int64_t j = i + 1; j <= s->last[2 * (t->out[0] - s->p->vals)] && far < 0; j++) {
            if (!reads(&s->base[j], t->out[0])) continue;
            if (j - at > FAR) far = j;
            at = j;
        }
        for (int32_t k = 0; k < t->n_in && far >= 0; k++) {
            const int64_t v = value(s, t->in[k]);
            if (v >= 0 && s->last[2 * v] < far) far = -1;
        }
        if (far >= 0) s->again[i] = (int32_t)far;
    }
}

/* Down to an arena of `target` bytes, in small steps, for each changes what the next one costs. Where the bytes alive are few enough and their places
 * leave gaps, further. When nothing is left: the smallest arena of those seen on the way down to target 0. */
static ramet_status lower(search *s, uint64_t target) {
    uint64_t least = UINT64_MAX;
    int64_t tried = INT64_MAX;
    choose_cheap(s);
    for (int32_t more = 1; more;) {
        find_peak(s);
        if (s->peak < tried && (!target || (uint64_t)s->peak <= target)) {
            tried = s->peak;
            RAMET__TRY(build(s));
            if (s->p->arena_bytes <= target) return RAMET_OK;
            if (s->p->arena_bytes < least) {
                least = s->p->arena_bytes;
                memcpy(s->best, s->again, (size_t)s->n * sizeof *s->best);
            }
        }
        const int64_t step = s->peak / 32 + 1, goal = target < (uint64_t)s->peak ? (int64_t)target : 0;
        more = relieve(s, RAMET__MAX(goal, s->peak - step));
    }
    if (target) return RAMET_OK;
    memcpy(s->again, s->best, (size_t)s->n * sizeof *s->again);
    return build(s);
}

static uint64_t less(uint64_t a, uint64_t b) { return a > b ? a - b : 0; }

static void scratch(search *s) {
    ramet__plan *p = s->p;
    p->worker_bytes = 0;
    for (int64_t i = 0; i < s->n; i++) p->worker_bytes = RAMET__MAX(p->worker_bytes, ramet__align(s->base[i].scratch_bytes));
    p->scratch_bytes = p->worker_bytes * (uint64_t)p->workers;
}

/* The steps that need most scratch do with less. 0: one of them cannot. */
static int32_t halve(search *s) {
    const uint64_t most = s->p->worker_bytes;
    for (int64_t i = 0; i < s->n; i++)
        if (ramet__align(s->base[i].scratch_bytes) == most && (!s->base[i].op->halve || !s->base[i].op->halve(&s->base[i]))) return 0;
    scratch(s);
    return s->p->worker_bytes < most;
}

ramet_status ramet__plan_fit(ramet__plan *p, uint64_t budget, uint64_t held) {
    ramet_status st = RAMET_OK;
    search s = {0};
    uint64_t now, target;
    RAMET__GO(search_init(&s, p));
    scratch(&s);
    choose_cheap(&s);
    RAMET__GO(build(&s));
    do {
        target = budget ? less(budget, held + ramet__plan_bytes(p) - p->arena_bytes) : UINT64_MAX;
        ramet__mem_bytes(p->rt->mem, &now, NULL);
        if (ramet__mem_budget(p->rt->mem)) target = RAMET__MIN(target, less(ramet__mem_budget(p->rt->mem), now + p->scratch_bytes + 2 * RAMET__ALIGN));
        if (p->arena_bytes <= target) break;
        RAMET__GO(lower(&s, target));
        if (p->arena_bytes > target) RAMET__GO(lower(&s, 0)); /* does not depend on the budget: what the message names is enough */
    } while (p->arena_bytes > target && halve(&s));
    if (budget && held + ramet__plan_bytes(p) > budget)
        st = ramet__fail(RAMET_E_BUDGET, "plan: %" PRId64 " rows need at least %" PRIu64 " bytes, however much is computed again; the budget is %" PRIu64 ": raise it or use fewer rows",
                         p->max_rows, held + ramet__plan_bytes(p), budget);
out:
    if (p->steps != s.base) ramet__free(s.base);
    ramet__arena_free(&s.room);
    return st;
}
