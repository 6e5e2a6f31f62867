/* SPDX-License-Identifier: Apache-2.0 */
/* generate.c - file to logits: load a model, run a prompt, look at the logits, stream a reply.
 * usage: generate MODEL PROMPT */
#include <ramet/ramet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int32_t print(int32_t sequence, int32_t id, const char *text, size_t length, void *user) {
    (void)sequence, (void)id, (void)user;
    fwrite(text, 1, length, stdout);
    return fflush(stdout); /* anything but 0 would stop here */
}

int main(int argc, char **argv) {
    ramet_runtime *runtime = NULL;
    ramet_model *model = NULL;
    ramet_session *session = NULL;
    int32_t *ids = NULL, next;
    int64_t count = 0, outputs, vocabulary;
    const float *logits; /* [outputs, vocabulary], inside the session */
    int code = EXIT_FAILURE;
    if (argc != 3) return fprintf(stderr, "usage: generate MODEL PROMPT\n"), 2;
    const char *prompt = argv[2];

    if (ramet_runtime_create(&runtime, NULL) || ramet_model_load_path(&model, runtime, argv[1])) goto failed;
    if (ramet_tokenize(&count, NULL, 0, model, prompt, strlen(prompt), RAMET_TOKENIZE_BOS)) goto failed;
    if (!(ids = malloc((size_t)(count + 1) * sizeof *ids))) goto failed;
    if (ramet_tokenize(&count, ids, count, model, prompt, strlen(prompt), RAMET_TOKENIZE_BOS)) goto failed;

    /* All rows go to sequence 0; NULL for `want` asks for the logits of the last row. */
    if (ramet_session_create(&session, model, NULL) || ramet_model_number(&vocabulary, model, "vocabulary")) goto failed;
    if (ramet_session_run(&logits, &outputs, session, ids, NULL, NULL, count, NULL, NULL)) goto failed;
    if (ramet_sample(&next, logits, vocabulary, NULL, 0, count)) goto failed;
    printf("%lld ids in, the likeliest next is %d with logit %.3f\n", (long long)count, next, logits[next]);

    /* The same prompt again, in an empty sequence: 40 tokens, the likeliest each time. */
    if (ramet_session_truncate(session, 0, 0)) goto failed;
    if (ramet_session_generate(NULL, session, 0, ids, count, 40, NULL, print, NULL, NULL)) goto failed;
    putchar('\n');
    code = EXIT_SUCCESS;
failed:
    if (code) fprintf(stderr, "generate: %s\n", ramet_last_error());
    free(ids);
    ramet_session_free(session);
    ramet_model_free(model);
    ramet_runtime_free(runtime);
    return code;
}
