/* SPDX-License-Identifier: Apache-2.0 */
/* A C++ program on the public API: the headers together, a runtime with the host's allocator and executor, errors, names. */
#include <ramet/ramet.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

static int failures;
#define CHECK(condition) \
    do { \
        if (!(condition)) std::printf("%s:%d: %s; last error: %s\n", __FILE__, __LINE__, #condition, ramet_last_error()), ++failures; \
    } while (0)

struct Freer {
    void operator()(ramet_runtime *r) const { ramet_runtime_free(r); }
};
using Runtime = std::unique_ptr<ramet_runtime, Freer>;

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
    }
    CHECK(heap.held == 0);
    ramet_runtime_free(nullptr);
    return failures != 0;
}
