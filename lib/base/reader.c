/* SPDX-License-Identifier: Apache-2.0 */
/* reader.c - one reader over a path, a descriptor with offset, memory or callbacks; mapped unless told `untrusted`. */
#include "file.h"
#include "runtime.h"
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct ramet__reader {
    _Atomic int32_t refs;
    int32_t fd;           /* -1: none */
    const uint8_t *bytes; /* mapped or in memory; NULL: must be read */
    void *map;            /* what munmap gets */
    size_t map_size;
    uint64_t base; /* where the content begins in the file */
    uint64_t size;
    ramet_read_fn read;
    void *user;
    char name[]; /* for messages */
};

#define READ_MOST ((uint64_t)1 << 30) /* bytes in one read call */

static uint64_t page_size(void) {
    const long n = sysconf(_SC_PAGESIZE);
    return n > 0 ? (uint64_t)n : 4096;
}

/* Map the content; when the system refuses, fd stays and the bytes are read instead. */
static void try_map(ramet__reader *r) {
    const uint64_t skip = r->base % page_size();
    if (r->size == 0 || r->size > (uint64_t)PTRDIFF_MAX - skip) return;
    void *map = mmap(NULL, (size_t)(r->size + skip), PROT_READ, MAP_PRIVATE, r->fd, (off_t)(r->base - skip));
    if (map == MAP_FAILED) return;
    r->map = map;
    r->map_size = (size_t)(r->size + skip);
    r->bytes = (const uint8_t *)map + skip;
}

/* fd is the reader's own from here. */
static ramet_status open_fd(ramet__reader *r, const ramet_source *s) {
    struct stat info;
    if (fstat(r->fd, &info)) return ramet__fail_errno(errno, "%s: cannot be examined", r->name);
    if (S_ISDIR(info.st_mode)) return ramet__fail(RAMET_E_ARGUMENT, "%s: is a folder; a file is wanted", r->name);
    if (!S_ISREG(info.st_mode)) return ramet__fail(RAMET_E_ARGUMENT, "%s: is not a regular file; save it as one, or read it through callbacks (RAMET_SOURCE_CALLBACKS)", r->name);
    const uint64_t whole = (uint64_t)info.st_size;
    if (s->kind == RAMET_SOURCE_DESCRIPTOR) {
        if (s->offset > whole || s->length > whole - s->offset)
            return ramet__fail(RAMET_E_ARGUMENT, "%s: offset %llu and length %llu reach beyond the file's %llu bytes", r->name,
                               (unsigned long long)s->offset, (unsigned long long)s->length, (unsigned long long)whole);
        r->base = s->offset;
        r->size = s->length ? s->length : whole - s->offset;
    } else {
        r->size = whole;
    }
    if (!s->untrusted) try_map(r);
    if (r->bytes) {
        close(r->fd);
        r->fd = -1;
    }
    return RAMET_OK;
}

static ramet_status open_source(ramet__reader *r, const ramet_source *s) {
    switch (s->kind) {
    case RAMET_SOURCE_PATH:
        r->fd = open(s->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a named pipe must not block here */
        if (r->fd < 0) return ramet__fail_errno(errno, "%s: cannot be opened", r->name);
        return open_fd(r, s);
    case RAMET_SOURCE_DESCRIPTOR:
        r->fd = fcntl(s->descriptor, F_DUPFD_CLOEXEC, 0);
        if (r->fd < 0) return ramet__fail_errno(errno, "%s: cannot be used", r->name);
        return open_fd(r, s);
    case RAMET_SOURCE_MEMORY:
        if (!s->data && s->length) return ramet__fail(RAMET_E_ARGUMENT, "source: data is NULL");
        r->bytes = s->data ? s->data : "";
        r->size = s->length;
        return RAMET_OK;
    default: /* CALLBACKS */
        r->read = s->read;
        r->user = s->user;
        r->size = s->length;
        return s->read ? RAMET_OK : ramet__fail(RAMET_E_ARGUMENT, "source: read is NULL");
    }
}

ramet_status ramet__reader_open(ramet__reader **out, ramet__mem *mem, const ramet_source *source) {
    ramet_source s = {.struct_size = sizeof s};
    if (!source) return ramet__fail(RAMET_E_ARGUMENT, "source is NULL");
    RAMET__TRY(ramet__options(&s, sizeof s, source, "source"));
    if (s.kind < RAMET_SOURCE_PATH || s.kind > RAMET_SOURCE_CALLBACKS)
        return ramet__fail(RAMET_E_ARGUMENT, "source: kind %d is none of RAMET_SOURCE_*", s.kind);
    if (s.kind == RAMET_SOURCE_PATH && (!s.path || !*s.path)) return ramet__fail(RAMET_E_ARGUMENT, "source: path is %s", s.path ? "empty" : "NULL");
    const char *name = s.kind == RAMET_SOURCE_PATH ? s.path : s.kind == RAMET_SOURCE_DESCRIPTOR ? "<descriptor>" : s.kind == RAMET_SOURCE_MEMORY ? "<memory>" : "<callbacks>";
    const size_t length = strlen(name);
    ramet__reader *r = ramet__calloc(mem, 1, sizeof *r + length + 1);
    if (!r) return ramet__alloc_status();
    atomic_init(&r->refs, 1);
    r->fd = -1;
    memcpy(r->name, name, length + 1);
    const ramet_status st = open_source(r, &s);
    if (st) {
        ramet__reader_free(r);
        return st;
    }
    *out = r;
    return RAMET_OK;
}

ramet__reader *ramet__reader_retain(ramet__reader *reader) {
    atomic_fetch_add_explicit(&reader->refs, 1, memory_order_relaxed);
    return reader;
}

void ramet__reader_free(ramet__reader *reader) {
    if (!reader || atomic_fetch_sub_explicit(&reader->refs, 1, memory_order_acq_rel) != 1) return;
    if (reader->map) munmap(reader->map, reader->map_size);
    if (reader->fd >= 0) close(reader->fd);
    ramet__free(reader);
}

const char *ramet__reader_name(const ramet__reader *reader) { return reader->name; }
uint64_t ramet__reader_size(const ramet__reader *reader) { return reader->size; }

static int within(const ramet__reader *r, uint64_t offset, uint64_t size) { return offset <= r->size && size <= r->size - offset; }

static ramet_status read_fd(ramet__reader *r, uint8_t *dst, uint64_t offset, uint64_t size) {
    while (size > 0) {
        const ssize_t n = pread(r->fd, dst, (size_t)RAMET__MIN(size, READ_MOST), (off_t)(r->base + offset));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            const int code = errno;
            ramet__fail_errno(code, "%s: offset %llu cannot be read", r->name, (unsigned long long)offset);
            return RAMET_E_IO;
        }
        if (n == 0)
            return ramet__fail(RAMET_E_IO, "%s: the file shrank while it was read: no bytes at offset %llu, %llu were there when it was opened",
                               r->name, (unsigned long long)offset, (unsigned long long)r->size);
        dst += n;
        offset += (uint64_t)n;
        size -= (uint64_t)n;
    }
    return RAMET_OK;
}

static ramet_status read_callback(ramet__reader *r, uint8_t *dst, uint64_t offset, uint64_t size) {
    while (size > 0) {
        const int64_t n = r->read(dst, offset, size, r->user);
        if (n <= 0)
            return ramet__fail(RAMET_E_IO, "%s: the read callback %s at offset %llu of %llu", r->name, n < 0 ? "failed" : "gave no bytes",
                               (unsigned long long)offset, (unsigned long long)r->size);
        if ((uint64_t)n > size)
            return ramet__fail(RAMET_E_IO, "%s: the read callback answered %lld for %llu bytes at offset %llu", r->name, (long long)n,
                               (unsigned long long)size, (unsigned long long)offset);
        dst += n;
        offset += (uint64_t)n;
        size -= (uint64_t)n;
    }
    return RAMET_OK;
}

ramet_status ramet__reader_read(ramet__reader *reader, void *dst, uint64_t offset, uint64_t size) {
    if (!within(reader, offset, size))
        return ramet__fail(RAMET_E_FORMAT, "%s: %llu bytes at offset %llu are beyond the end at %llu; the file is cut short or damaged",
                           reader->name, (unsigned long long)size, (unsigned long long)offset, (unsigned long long)reader->size);
    if (size == 0) return RAMET_OK;
    if (reader->bytes) {
        memcpy(dst, reader->bytes + offset, (size_t)size);
        return RAMET_OK;
    }
    return reader->read ? read_callback(reader, dst, offset, size) : read_fd(reader, dst, offset, size);
}

const void *ramet__reader_map(const ramet__reader *reader, uint64_t offset, uint64_t size) {
    return reader->bytes && within(reader, offset, size) ? reader->bytes + offset : NULL;
}

void ramet__reader_drop(const ramet__reader *reader, uint64_t offset, uint64_t size) {
    if (!reader->map || !within(reader, offset, size)) return;
    const uintptr_t page = (uintptr_t)page_size(), at = (uintptr_t)reader->bytes + (uintptr_t)offset;
    const uintptr_t from = RAMET__ROUND_UP(at, page), to = (at + (uintptr_t)size) / page * page; /* whole pages inside */
    if (from < to) madvise((char *)reader->map + (from - (uintptr_t)reader->map), to - from, MADV_DONTNEED);
}

ramet_status ramet__file_read_all(char **data, size_t *size, ramet__mem *mem, const char *path, uint64_t limit) {
    ramet_source source;
    ramet_source_from_path(&source, sizeof source, path);
    source.untrusted = 1;
    ramet__reader *reader = NULL;
    char *made = NULL;
    ramet_status st;
    RAMET__GO(ramet__reader_open(&reader, mem, &source));
    if (limit == 0) limit = (uint64_t)1 << 30;
    if (reader->size > limit) {
        st = ramet__fail(RAMET_E_LIMIT, "%s: has %llu bytes; at most %llu are taken", path, (unsigned long long)reader->size, (unsigned long long)limit);
        goto out;
    }
    RAMET__NEW(made, ramet__alloc(mem, (size_t)reader->size + 1));
    RAMET__GO(ramet__reader_read(reader, made, 0, reader->size));
    made[reader->size] = 0;
    *data = made;
    *size = (size_t)reader->size;
    made = NULL;
out:
    ramet__free(made);
    ramet__reader_free(reader);
    return st;
}
