/* SPDX-License-Identifier: Apache-2.0 */
/**
 * ramet/base.h - status codes, the runtime, sources of bytes, and the small conventions every other header uses.
 *
 * Conventions of the whole API:
 *  - A function that can fail returns a ramet_status; out parameters come first and are untouched on failure.
 *  - Handles are opaque. `ramet_<noun>_free(NULL)` does nothing. Handles that say "reference counted" have _retain too.
 *  - Option structs begin with struct_size. Call the matching _init(&o, sizeof o) first; it fills defaults and writes no
 *    further than the size given. A NULL options pointer means all defaults.
 *  - Text is UTF-8, NUL-terminated unless a length is passed.
 *  - Callbacks take `user` last and are called on the thread that called the library. Calling the same handle from inside
 *    a callback is an error (RAMET_E_STATE).
 *  - Thread rule, unless a function says otherwise: different handles may be used from different threads at the same
 *    time; one handle is used by one thread at a time. Models and tokenizers are immutable and may be shared.
 */
#ifndef RAMET_BASE_H
#define RAMET_BASE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32) && defined(RAMET_SHARED)
#  if defined(RAMET_BUILDING)
#    define RAMET_API __declspec(dllexport)
#  else
#    define RAMET_API __declspec(dllimport)
#  endif
#elif defined(__GNUC__)
#  define RAMET_API __attribute__((visibility("default")))
#else
#  define RAMET_API
#endif

/** The version of this header; ramet_version() is the version of the library that was loaded. */
#define RAMET_VERSION_MAJOR 0
#define RAMET_VERSION_MINOR 1
#define RAMET_VERSION_PATCH 0
/** Rises when a program built against an older header would break; the number in the shared library's name. 0: no promise yet. */
#define RAMET_ABI_VERSION 0

/** 0 is success, negative values are errors. The values are pinned: a code never changes its number. */
typedef int32_t ramet_status;
#define RAMET_OK 0
#define RAMET_E_ARGUMENT (-1)     /**< a caller's argument is wrong */
#define RAMET_E_MEMORY (-2)       /**< the allocator returned NULL */
#define RAMET_E_BUDGET (-3)       /**< the byte budget would be exceeded; the message names the smallest that would do */
#define RAMET_E_IO (-4)           /**< the operating system refused a read or write */
#define RAMET_E_FORMAT (-5)       /**< a file's bytes are not what the format allows; the message has the offset */
#define RAMET_E_LIMIT (-6)        /**< a file or request is beyond a limit of this library */
#define RAMET_E_UNSUPPORTED (-7)  /**< valid, but not something this build can do */
#define RAMET_E_INCONSISTENT (-8) /**< parts are valid alone but contradict one another */
#define RAMET_E_CANCELLED (-9)    /**< a progress callback asked to stop */
#define RAMET_E_STATE (-10)       /**< the handle cannot do this now */
#define RAMET_E_NOT_FOUND (-11)   /**< no such name, file or entry */
#define RAMET_E_REFUSED (-12)     /**< an update or candidate was refused by a rule; the message names the rule */
#define RAMET_E_NUMERIC (-13)     /**< NaN or infinity where a finite number is needed */
#define RAMET_E_FORK (-14)        /**< the handle was made before fork(); only freeing works in the child */
#define RAMET_E_INTERNAL (-15)    /**< a bug in ramet; please report it */

/** The library's version as (major << 16) | (minor << 8) | patch. Any thread. Since 0.1. */
RAMET_API uint32_t ramet_version(void);
/** The library's version as text, "0.1.0". Static storage. Any thread. Since 0.1. */
RAMET_API const char *ramet_version_string(void);
/** The name of a status, "RAMET_E_FORMAT"; "unknown" for a number that is none. Static storage. Since 0.1. */
RAMET_API const char *ramet_status_name(ramet_status status);
/**
 * One line about the last error on the calling thread: what, where, what to do. Never NULL; empty when nothing failed
 * yet. Valid until the next failing call on this thread. A successful call does not clear it. Since 0.1.
 */
RAMET_API const char *ramet_last_error(void);

/* ---- callbacks ------------------------------------------------------------------------------------------------- */

/**
 * The one allocator. ptr NULL: allocate new_size bytes; new_size 0: free ptr; otherwise resize, keeping the contents.
 * Alignment is a power of two, at most 4096, the same for all calls about one block. Returns NULL on failure (the old
 * block stays valid). Called from any thread.
 */
typedef void *(*ramet_alloc_fn)(void *ptr, size_t old_size, size_t new_size, size_t alignment, void *user);

#define RAMET_LOG_ERROR 0
#define RAMET_LOG_WARNING 1
#define RAMET_LOG_INFO 2
#define RAMET_LOG_DEBUG 3
/** One line without a newline. Called on the thread that called the library. */
typedef void (*ramet_log_fn)(int32_t level, const char *line, void *user);

/**
 * Progress of long work: fraction in 0..1, or negative when unknown; `what` is a short phrase. Return non-zero to cancel:
 * the call then fails with RAMET_E_CANCELLED and leaves everything as it was before the call (or resumable, where said).
 */
typedef int32_t (*ramet_progress_fn)(double fraction, const char *what, void *user);

/** One piece of work. `worker` is below the worker count that the runtime was created with. */
typedef void (*ramet_piece_fn)(void *context, int64_t piece, int32_t worker);
/**
 * The host's executor: run piece(context, i, worker) for every i in 0..pieces-1 and return when all are done. Two calls
 * that run at the same time *within one invocation* must have different `worker` numbers. The calling thread should work
 * too. May be called from several threads at once.
 */
typedef void (*ramet_executor_fn)(int64_t pieces, ramet_piece_fn piece, void *context, void *user);

/* ---- runtime --------------------------------------------------------------------------------------------------- */

/** Threads, allocator, byte budget, log and kernel choice. Reference counted: everything made from it keeps it alive. */
typedef struct ramet_runtime ramet_runtime;

/** Instruction-set levels, in rising order; a level includes those below it that its processor family has. Names: ref simd avx2 avx512 amx;
 * avxvnni (AVX2 with its int8 dot product) stands between avx2 and avx512; on aarch64 dotprod (the int8 dot product of ARMv8.2) stands directly above
 * simd, i8mm (the int8 matrix product of ARMv8.6) above dotprod. */
#define RAMET_ISA_AUTO (-1)
#define RAMET_ISA_REF 0
#define RAMET_ISA_SIMD 1
#define RAMET_ISA_AVX2 2
#define RAMET_ISA_AVX512 3
#define RAMET_ISA_AMX 4
#define RAMET_ISA_DOTPROD 5
#define RAMET_ISA_AVXVNNI 6
#define RAMET_ISA_I8MM 7

typedef struct ramet_runtime_options {
    uint32_t struct_size;
    int32_t threads;          /**< workers, the caller included; 0 (default): one per processor this process may use */
    ramet_alloc_fn alloc;     /**< NULL (default): the C library's */
    void *alloc_user;
    uint64_t byte_budget;     /**< most bytes to hold at once, mapped files not counted; 0 (default): no limit. Packed weights that no session, tuner or
                                   program uses any more stay for the next one, and make room when something else needs it */
    ramet_log_fn log;         /**< NULL (default): silent */
    void *log_user;
    int32_t log_level;        /**< most detailed level wanted; default RAMET_LOG_WARNING */
    int32_t isa;              /**< highest level to use; RAMET_ISA_AUTO (default): RAMET_ISA=... or what the CPU has */
    ramet_executor_fn executor; /**< NULL (default): the library's own threads */
    void *executor_user;
} ramet_runtime_options;

RAMET_API void ramet_runtime_options_init(ramet_runtime_options *options, uint32_t struct_size);
/** Make a runtime. Errors: E_ARGUMENT, E_MEMORY, E_UNSUPPORTED (an ISA level that this CPU lacks). Since 0.1. */
RAMET_API ramet_status ramet_runtime_create(ramet_runtime **out, const ramet_runtime_options *options);
/** Drop the caller's reference. Any thread. */
RAMET_API void ramet_runtime_free(ramet_runtime *runtime);
/** Bytes held now and the most ever held. Any thread; either pointer may be NULL. */
RAMET_API void ramet_runtime_bytes(const ramet_runtime *runtime, uint64_t *now, uint64_t *peak);
/** Worker count, caller included. */
RAMET_API int32_t ramet_runtime_threads(const ramet_runtime *runtime);
/** Name of the level in use: "ref", "simd", "avx2", "avx512", "amx". Static storage. */
RAMET_API const char *ramet_runtime_isa(const ramet_runtime *runtime);

/* ---- sources of bytes ------------------------------------------------------------------------------------------ */

#define RAMET_SOURCE_PATH 0
#define RAMET_SOURCE_DESCRIPTOR 1
#define RAMET_SOURCE_MEMORY 2
#define RAMET_SOURCE_CALLBACKS 3

/** Read up to `size` bytes at `offset` into dst; return how many (0: end), or a negative number on failure. */
typedef int64_t (*ramet_read_fn)(void *dst, uint64_t offset, uint64_t size, void *user);

/** Where to read from. Zero the struct, set struct_size and kind, then the members that kind uses. */
typedef struct ramet_source {
    uint32_t struct_size;
    int32_t kind;
    const char *path;      /**< PATH: a file, or a Hugging Face folder where a model is wanted */
    int32_t descriptor;    /**< DESCRIPTOR: an open file; not closed, may be closed after the call */
    int32_t untrusted;     /**< PATH (also of a folder), DESCRIPTOR: read instead of map, so a file that shrinks is an error, not a fault */
    uint64_t offset;       /**< DESCRIPTOR: where the content begins (an asset inside a package) */
    uint64_t length;       /**< DESCRIPTOR: its length, 0: to the end; CALLBACKS: total length; MEMORY: bytes at data */
    const void *data;      /**< MEMORY: must outlive what is made from it */
    ramet_read_fn read;    /**< CALLBACKS */
    void *user;            /**< CALLBACKS */
} ramet_source;

/** Fill a source with zeros and kind PATH for `path` (not copied). */
RAMET_API void ramet_source_from_path(ramet_source *source, uint32_t struct_size, const char *path);

/* ---- names ----------------------------------------------------------------------------------------------------- */

/**
 * Enumerate what this build has. `kind`: "archs", "encodings", "ops", "graph" (for ramet_graph_apply), "methods", "kernels", "isas", "optimizers",
 * "schedules". Names are given for index
 * 0,1,2...; E_NOT_FOUND after the last. `detail` (may be NULL) receives one line about it. Static storage. Any thread.
 */
RAMET_API ramet_status ramet_list(const char **name, const char **detail, const char *kind, int32_t index);

/** Free a string that a function returned and said is the caller's. NULL is fine. Any thread. */
RAMET_API void ramet_string_free(char *text);

#ifdef __cplusplus
}
#endif
#endif
