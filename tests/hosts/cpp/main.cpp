/* SPDX-License-Identifier: Apache-2.0 */
/* A C++ program on the public API: the headers together, a runtime with the host's allocator, errors; load, generate, tune, generate with
 * what was learned. The tiny model's path comes in RAMET_TINY_MODEL. */
#include <ramet/ramet.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

static int failures;
#define CHECK(condition) \
    do { \
        if (!(condition)) std::printf("%s:%d: %s; last error: %s\n", __FILE__, __LINE__, #condition, ramet_last_error()), ++failures; \
    } while (0)

struct Freer {
    void operator()(ramet_runtime *p) const { ramet_runtime_free(p); }
    void operator()(ramet_model *p) const { ramet_model_free(p); }
    void operator()(ramet_session *p) const { ramet_session_free(p); }
    void operator()(ramet_dataset *p) const { ramet_dataset_free(p); }
    void operator()(ramet_tuner *p) const { ramet_tuner_free(p); }
    void operator()(ramet_adapter *p) const { ramet_adapter_free(p); }
};
template <class T> using Handle = std::unique_ptr<T, Freer>;
using Runtime = Handle<ramet_runtime>;

struct Heap {
    size_t held = 0, calls = 0;
    static void *call(void *old, size_t old_size, size_t new_size, size_t alignment, void *user) {
        Heap &heap = *static_cast<Heap *>(user);
        heap.calls++;
        void *block = nullptr;
        if (new_size && posix_memalign(&block, alignment < sizeof(void *) ? sizeof(void *) : alignment, new_size)) return nullptr;
        if (old && block) std::memcpy(block, old, old_size < new_size ? old_size : new_size);
        std::free(old);
        heap.held += new_size - old_size;
        return block;
    }
};

static int32_t append(int32_t, int32_t, const char *text, size_t length, void *user) {
    static_cast<std::string *>(user)->append(text, length);
    return 0;
}

static std::string reply_to(ramet_session *session, ramet_model *model, const std::string &prompt) {
    int64_t count = 0, generated = 0;
    std::string reply;
    CHECK(ramet_tokenize(&count, nullptr, 0, model, prompt.data(), prompt.size(), RAMET_TOKENIZE_BOS) == RAMET_OK && count > 0);
    std::vector<int32_t> ids(static_cast<size_t>(count));
    CHECK(ramet_tokenize(&count, ids.data(), count, model, prompt.data(), prompt.size(), RAMET_TOKENIZE_BOS) == RAMET_OK);
    CHECK(ramet_session_truncate(session, 0, 0) == RAMET_OK);
    CHECK(ramet_session_generate(&generated, session, 0, ids.data(), count, 8, nullptr, append, nullptr, &reply) == RAMET_OK);
    CHECK(generated > 0 && generated <= 8);
    return reply;
}

/* Load, generate, tune, generate with the adapter attached and detached. */
static void walk(ramet_runtime *runtime, const char *path) {
    ramet_model *loaded = nullptr;
    CHECK(ramet_model_load_path(&loaded, runtime, path) == RAMET_OK);
    if (!loaded) return;
    Handle<ramet_model> model(loaded);

    ramet_session_options session_options;
    ramet_session_options_init(&session_options, sizeof session_options);
    session_options.max_context = 64;
    session_options.max_sequences = 1;
    ramet_session *opened = nullptr;
    CHECK(ramet_session_create(&opened, loaded, &session_options) == RAMET_OK);
    Handle<ramet_session> session(opened);
    if (!session) return;
    const std::string prompt = "the animals of", before = reply_to(opened, loaded, prompt);
    CHECK(before == reply_to(opened, loaded, prompt));

    ramet_dataset *texts = nullptr;
    CHECK(ramet_dataset_create(&texts, loaded) == RAMET_OK);
    Handle<ramet_dataset> data(texts);
    std::string text;
    for (int i = 0; i < 8; i++) text += "the animals of the rain sing in the train; ";
    for (int i = 0; i < 4; i++) CHECK(ramet_dataset_add_text(texts, text.data(), text.size()) == RAMET_OK);
    ramet_tuner_options options;
    ramet_tuner_options_init(&options, sizeof options);
    options.rank = 4;
    options.window = 32;
    options.batch = 2;
    options.steps = 12;
    options.learning_rate = 2e-2f;
    ramet_tuner *made = nullptr;
    CHECK(ramet_tuner_create(&made, loaded, texts, &options) == RAMET_OK);
    Handle<ramet_tuner> tuner(made);
    if (!tuner) return;
    ramet_tuner_report first = {}, last = {};
    first.struct_size = last.struct_size = sizeof first;
    CHECK(ramet_tuner_step(&first, made, 1, 0, nullptr, nullptr) == RAMET_OK);
    CHECK(first.step == 1 && !first.done && first.loss > 0);
    CHECK(ramet_tuner_step(&last, made, options.steps, 0, nullptr, nullptr) == RAMET_OK);
    CHECK(last.step == options.steps && last.done && last.loss < first.loss);

    ramet_adapter *learned = nullptr;
    CHECK(ramet_tuner_adapter(&learned, made) == RAMET_OK);
    Handle<ramet_adapter> adapter(learned);
    int32_t index = -1;
    CHECK(ramet_session_attach(&index, opened, learned, 1) == RAMET_OK && index == 0);
    CHECK(ramet_session_use(opened, 0, index) == RAMET_OK);
    CHECK(before != reply_to(opened, loaded, prompt));
    CHECK(ramet_session_detach(opened, index) == RAMET_OK);
    CHECK(before == reply_to(opened, loaded, prompt));
}

int main() {
    const std::string version = std::to_string(RAMET_VERSION_MAJOR) + "." + std::to_string(RAMET_VERSION_MINOR) + "." + std::to_string(RAMET_VERSION_PATCH);
    CHECK(version == ramet_version_string());
    CHECK(ramet_version() == (RAMET_VERSION_MAJOR << 16 | RAMET_VERSION_MINOR << 8 | RAMET_VERSION_PATCH));
    CHECK(std::string(ramet_status_name(RAMET_E_FORMAT)) == "RAMET_E_FORMAT");

    Heap heap;
    {
        ramet_runtime_options options;
        ramet_runtime_options_init(&options, sizeof options);
        options.threads = 1;
        options.alloc = Heap::call;
        options.alloc_user = &heap;
        ramet_runtime *raw = nullptr;
        CHECK(ramet_runtime_create(&raw, &options) == RAMET_OK);
        Runtime runtime(raw);
        CHECK(ramet_runtime_threads(raw) == 1);
        CHECK(std::strlen(ramet_runtime_isa(raw)) > 0);
        CHECK(heap.calls > 0 && heap.held > 0);

        ramet_runtime *none = nullptr;
        options.isa = 1000;
        CHECK(ramet_runtime_create(&none, &options) < 0 && none == nullptr);
        CHECK(std::strlen(ramet_last_error()) > 0);

        const char *path = std::getenv("RAMET_TINY_MODEL");
        CHECK(path != nullptr);
        if (path) walk(raw, path);
    }
    CHECK(heap.held == 0);
    ramet_runtime_free(nullptr);
    return failures != 0;
}
