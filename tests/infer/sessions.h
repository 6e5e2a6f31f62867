/* SPDX-License-Identifier: Apache-2.0 */
/* sessions.h - what tests of sessions share: the tiny model's sizes, a text, a session, a host that stops. */
#ifndef RAMET_TEST_SESSIONS_H
#define RAMET_TEST_SESSIONS_H
#include "../model/support.h"
#include "infer/session.h"
#include "ramet/experimental.h"
#include "ramet/session.h"
#include "ramet/shrink.h"

#define VOCAB 320
enum { D = 64, HEADS = 4, KV = 2, HD = 16, FF = 128, LAYERS = 2, MAX = 64 };

static const int32_t text[] = {1, 77, 290, 15, 15, 200, 310, 42, 99, 3, 258, 259, 60, 61, 62, 120, 7, 300, 301, 55};
enum { TEXT = sizeof text / sizeof *text };

static ramet_session *session_of(ramet_model *m, int32_t mode, int32_t rows) {
    ramet_session_options o;
    ramet_session *s = NULL;
    ramet_session_options_init(&o, sizeof o);
    o.mode = mode;
    o.max_rows = rows;
    o.max_context = 200;
    o.max_sequences = 8;
    o.max_outputs = 32;
    o.max_rank = 8;
    OK(ramet_session_create(&s, m, &o));
    return s;
}

typedef struct stopper { int calls, stop_at; ramet_session *s; ramet_status inside; } stopper;

static int32_t stop_after(double fraction, const char *what, void *user) {
    stopper *p = user;
    if (p->s) p->inside = ramet_session_run(NULL, NULL, p->s, text, NULL, NULL, 1, NULL, NULL);
    return ++p->calls > p->stop_at;
}
#endif
