/* SPDX-License-Identifier: Apache-2.0 */
/* The C side of ramet.Native. The library calls back on the thread that called it, so a callback uses the caller's JNIEnv; a Java
 * exception thrown inside one stops the library's call and then continues in the Java caller. */
#include <jni.h>
#include <ramet/ramet.h>
#include <stdlib.h>
#include <string.h>

#define NATIVE(result, name) JNIEXPORT result JNICALL Java_ramet_Native_##name

static void throw_status(JNIEnv *env, ramet_status status, const char *message) {
    if ((*env)->ExceptionCheck(env)) return;
    const jsize size = (jsize)strlen(message);
    jclass class = (*env)->FindClass(env, "ramet/RametException");
    jmethodID init = class ? (*env)->GetMethodID(env, class, "<init>", "(I[B)V") : NULL;
    jbyteArray text = init ? (*env)->NewByteArray(env, size) : NULL;
    if (!text) return; /* the JVM has thrown what was missing */
    (*env)->SetByteArrayRegion(env, text, 0, size, (const jbyte *)message);
    jobject exception = (*env)->NewObject(env, class, init, (jint)status, text);
    if (exception) (*env)->Throw(env, exception);
}

/* A copy of a byte[] as text with a final NUL; NULL: an exception is pending. */
static char *text_of(JNIEnv *env, jbyteArray bytes, size_t *size) {
    if (!bytes) {
        throw_status(env, RAMET_E_ARGUMENT, "a text is null");
        return NULL;
    }
    const jsize n = (*env)->GetArrayLength(env, bytes);
    char *text = malloc((size_t)n + 1);
    if (!text) {
        throw_status(env, RAMET_E_MEMORY, "no memory for a text");
        return NULL;
    }
    (*env)->GetByteArrayRegion(env, bytes, 0, n, (jbyte *)text);
    text[n] = 0;
    if (size) *size = (size_t)n;
    return text;
}

static jbyteArray bytes_of(JNIEnv *env, const char *text, size_t size) {
    jbyteArray bytes = (*env)->NewByteArray(env, (jsize)size);
    if (bytes) (*env)->SetByteArrayRegion(env, bytes, 0, (jsize)size, (const jbyte *)text);
    return bytes;
}

typedef struct calls { /* the host's objects during one call, and the reply so far */
    JNIEnv *env;
    jobject progress, listener;
    jmethodID proceed, token;
    char *reply;
    size_t length, room;
    int32_t no_memory;
} calls;

/* 0: an exception is pending. */
static int32_t calls_begin(calls *c, JNIEnv *env, jobject listener, jobject progress) {
    memset(c, 0, sizeof *c);
    c->env = env;
    c->progress = progress;
    c->listener = listener;
    if (progress && !(c->proceed = (*env)->GetMethodID(env, (*env)->GetObjectClass(env, progress), "proceed", "(D)Z"))) return 0;
    if (listener && !(c->token = (*env)->GetMethodID(env, (*env)->GetObjectClass(env, listener), "token", "(I[B)Z"))) return 0;
    return 1;
}

static int32_t on_progress(double fraction, const char *what, void *user) {
    const calls *c = user;
    (void)what;
    if ((*c->env)->ExceptionCheck(c->env)) return 1;
    if (!c->progress) return 0;
    const jboolean proceed = (*c->env)->CallBooleanMethod(c->env, c->progress, c->proceed, (jdouble)fraction);
    return (*c->env)->ExceptionCheck(c->env) || !proceed;
}

static int32_t on_token(int32_t sequence, int32_t id, const char *text, size_t length, void *user) {
    calls *c = user;
    (void)sequence;
    if (c->length + length > c->room) {
        const size_t room = 2 * (c->length + length) + 256;
        char *reply = realloc(c->reply, room);
        if (!reply) {
            c->no_memory = 1;
            return 1;
        }
        c->reply = reply;
        c->room = room;
    }
    if (length) memcpy(c->reply + c->length, text, length);
    c->length += length;
    if (!c->listener) return 0;
    jbyteArray bytes = bytes_of(c->env, text, length);
    if (!bytes) return 1;
    const jboolean proceed = (*c->env)->CallBooleanMethod(c->env, c->listener, c->token, (jint)id, bytes);
    (*c->env)->DeleteLocalRef(c->env, bytes); /* a long reply would fill the local frame */
    return (*c->env)->ExceptionCheck(c->env) || !proceed;
}

NATIVE(jbyteArray, version)(JNIEnv *env, jclass class) {
    (void)class;
    return bytes_of(env, ramet_version_string(), strlen(ramet_version_string()));
}

NATIVE(jlong, load)(JNIEnv *env, jclass class, jbyteArray path, jint threads) {
    (void)class;
    ramet_runtime_options options;
    ramet_runtime *runtime = NULL;
    ramet_model *model = NULL;
    char *name = text_of(env, path, NULL);
    if (!name) return 0;
    ramet_runtime_options_init(&options, sizeof options);
    options.threads = threads;
    ramet_status status = ramet_runtime_create(&runtime, &options);
    if (!status) status = ramet_model_load_path(&model, runtime, name);
    if (status) throw_status(env, status, ramet_last_error());
    ramet_runtime_free(runtime); /* the model holds it */
    free(name);
    return (jlong)(intptr_t)model;
}

NATIVE(void, freeModel)(JNIEnv *env, jclass class, jlong model) {
    (void)env, (void)class;
    ramet_model_free((ramet_model *)(intptr_t)model);
}

NATIVE(jbyteArray, generate)(JNIEnv *env, jclass class, jlong handle, jbyteArray prompt, jint max_tokens, jobject listener, jobject progress) {
    (void)class;
    ramet_model *model = (ramet_model *)(intptr_t)handle;
    ramet_session *session = NULL;
    ramet_session_options options;
    ramet_sampling greedy;
    calls c;
    int32_t *ids = NULL;
    int64_t count = 0, context = 0;
    size_t size = 0;
    jbyteArray result = NULL;
    char *text = text_of(env, prompt, &size);
    if (!text) return NULL;
    ramet_status status = RAMET_OK;
    if (!calls_begin(&c, env, listener, progress)) goto out;
    status = ramet_tokenize(&count, NULL, 0, model, text, size, RAMET_TOKENIZE_SPECIAL | RAMET_TOKENIZE_BOS);
    if (status) goto out;
    ids = malloc((size_t)(count + 1) * sizeof *ids);
    if (!ids) {
        throw_status(env, RAMET_E_MEMORY, "no memory for the prompt");
        goto out;
    }
    status = ramet_tokenize(&count, ids, count, model, text, size, RAMET_TOKENIZE_SPECIAL | RAMET_TOKENIZE_BOS);
    if (!status) status = ramet_model_number(&context, model, "context");
    if (status) goto out;
    ramet_session_options_init(&options, sizeof options);
    ramet_sampling_init(&greedy, sizeof greedy);
    if (options.max_context > context) options.max_context = context;
    options.max_sequences = 1;
    options.max_outputs = 1;
    status = ramet_session_create(&session, model, &options);
    if (!status) status = ramet_session_generate(NULL, session, 0, ids, count, max_tokens, &greedy, on_token, on_progress, &c);
    if (!status && c.no_memory) {
        throw_status(env, RAMET_E_MEMORY, "no memory for the reply");
        goto out;
    }
    if (!status && !(*env)->ExceptionCheck(env)) result = bytes_of(env, c.reply, c.length);
out:
    if (status) throw_status(env, status, ramet_last_error());
    ramet_session_free(session);
    free(c.reply);
    free(ids);
    free(text);
    return result;
}

NATIVE(jlong, createTuner)(JNIEnv *env, jclass class, jlong handle, jobjectArray texts, jint rank, jlong steps, jfloat learning_rate, jint window, jint batch) {
    (void)class;
    ramet_model *model = (ramet_model *)(intptr_t)handle;
    ramet_dataset *data = NULL;
    ramet_tuner *tuner = NULL;
    ramet_tuner_options options;
    ramet_status status = ramet_dataset_create(&data, model);
    const jsize count = (*env)->GetArrayLength(env, texts);
    for (jsize i = 0; !status && i < count; i++) {
        size_t size = 0;
        jbyteArray bytes = (*env)->GetObjectArrayElement(env, texts, i);
        char *text = text_of(env, bytes, &size);
        if (!text) goto out;
        status = ramet_dataset_add_text(data, text, size);
        free(text);
        (*env)->DeleteLocalRef(env, bytes);
    }
    if (status) goto out;
    ramet_tuner_options_init(&options, sizeof options);
    options.rank = rank;
    options.alpha = 2 * (float)rank;
    options.steps = steps;
    options.learning_rate = learning_rate;
    options.window = window;
    options.batch = batch;
    status = ramet_tuner_create(&tuner, model, data, &options);
out:
    if (status) throw_status(env, status, ramet_last_error());
    ramet_dataset_free(data); /* the tuner holds it */
    return (jlong)(intptr_t)tuner;
}

NATIVE(void, freeTuner)(JNIEnv *env, jclass class, jlong tuner) {
    (void)env, (void)class;
    ramet_tuner_free((ramet_tuner *)(intptr_t)tuner);
}

NATIVE(jdoubleArray, step)(JNIEnv *env, jclass class, jlong tuner, jlong steps, jobject progress) {
    (void)class;
    ramet_tuner_report report;
    calls c;
    if (!calls_begin(&c, env, NULL, progress)) return NULL;
    memset(&report, 0, sizeof report);
    report.struct_size = sizeof report;
    const ramet_status status = ramet_tuner_step(&report, (ramet_tuner *)(intptr_t)tuner, steps, 0, on_progress, &c);
    if (status) {
        throw_status(env, status, ramet_last_error());
        return NULL;
    }
    if ((*env)->ExceptionCheck(env)) return NULL;
    const jdouble values[3] = {report.loss, (jdouble)report.step, report.done};
    jdoubleArray result = (*env)->NewDoubleArray(env, 3);
    if (result) (*env)->SetDoubleArrayRegion(env, result, 0, 3, values);
    return result;
}

NATIVE(void, saveAdapter)(JNIEnv *env, jclass class, jlong tuner, jbyteArray path) {
    (void)class;
    ramet_adapter *adapter = NULL;
    char *name = text_of(env, path, NULL);
    if (!name) return;
    ramet_status status = ramet_tuner_adapter(&adapter, (ramet_tuner *)(intptr_t)tuner);
    if (!status) status = ramet_adapter_save(adapter, name);
    if (status) throw_status(env, status, ramet_last_error());
    ramet_adapter_free(adapter);
    free(name);
}
