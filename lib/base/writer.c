/* SPDX-License-Identifier: Apache-2.0 */
/* writer.c - a file written whole or not at all, and the few operations on folders. */
#include "file.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BUFFER ((size_t)1 << 18)
#define WRITE_MOST ((size_t)1 << 30)
#define PATH_BYTES 4096

struct ramet__writer {
    int32_t fd;
    ramet_status status; /* the first failure sticks */
    uint64_t offset;
    size_t held; /* bytes in buffer */
    uint8_t *buffer;
    char *target, *temp, *folder;
};

static void destroy(ramet__writer *w) {
    if (w->fd >= 0) close(w->fd);
    if (w->temp && *w->temp) unlink(w->temp);
    ramet__free(w->buffer);
    ramet__free(w->target);
    ramet__free(w->temp);
    ramet__free(w->folder);
    ramet__free(w);
}

static const char letters[] = "abcdefghijklmnopqrstuvwxyz234567";
#define SUFFIX ".tmp-xxxxxxxx"

/* A writer holds a lock on its temp file, and the lock ends with the process: who gets it has found what a killed one left. */
void ramet__writer_sweep(const char *folder, const char *name) {
    const size_t end = sizeof SUFFIX - 1;
    DIR *dir = opendir(folder);
    if (!dir) return;
    for (const struct dirent *entry; (entry = readdir(dir));) {
        const char *found = entry->d_name;
        const size_t n = strlen(found);
        if (n <= end || memcmp(found + n - end, SUFFIX, end - 8) != 0 || strspn(found + n - 8, letters) != 8) continue;
        if (name && (strlen(name) != n - end || memcmp(found, name, n - end) != 0)) continue;
        const int fd = openat(dirfd(dir), found, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        struct stat info;
        if (fd < 0) continue;
        if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && flock(fd, LOCK_EX | LOCK_NB) == 0) unlinkat(dirfd(dir), found, 0);
        close(fd);
    }
    closedir(dir);
}

/* 0: a sweep came between making the file and locking it. Where the file system has no locks, nothing is swept either. */
static int keep_temp(int fd) {
    struct stat info;
    return (flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) && fstat(fd, &info) == 0 && info.st_nlink > 0;
}

/* A new file beside the target, with the rights the target has or would get. The name needs to be new, not secret. */
static ramet_status make_temp(ramet__writer *w, size_t size) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    uint64_t mix = ((uint64_t)t.tv_nsec << 32 ^ (uint64_t)t.tv_sec ^ (uint64_t)getpid() << 20 ^ (uint64_t)(uintptr_t)w) * 0x9E3779B97F4A7C15u;
    for (int attempt = 0; attempt < 100; attempt++) {
        char suffix[9] = "";
        mix = (mix ^ mix >> 29) * 0xBF58476D1CE4E5B9u + 1;
        for (int i = 0; i < 8; i++) suffix[i] = letters[mix >> (20 + 5 * i) & 31];
        snprintf(w->temp, size, "%s.tmp-%s", w->target, suffix);
        w->fd = open(w->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (w->fd >= 0 && keep_temp(w->fd)) {
            struct stat old;
            if (stat(w->target, &old) == 0) (void)!fchmod(w->fd, old.st_mode & 0777);
            return RAMET_OK;
        }
        if (w->fd >= 0) {
            close(w->fd);
            w->fd = -1;
        } else if (errno != EEXIST)
            break;
    }
    const int code = errno;
    w->temp[0] = 0;
    return ramet__fail_errno(code, "%s: a new file cannot be made beside it", w->target);
}

ramet_status ramet__writer_open(ramet__writer **out, ramet__mem *mem, const char *path) {
    if (!path || !*path) return ramet__fail(RAMET_E_ARGUMENT, "the path to write is %s", path ? "empty" : "NULL");
    char real[PATH_BYTES];
    struct stat info;
    if (lstat(path, &info) == 0 && S_ISLNK(info.st_mode) && realpath(path, real)) path = real; /* keep the link, replace the file */
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode)) return ramet__fail(RAMET_E_ARGUMENT, "%s: is not a regular file; it is not replaced", path);
    ramet_status st = RAMET_OK;
    const size_t length = strlen(path), temp_size = length + 16;
    ramet__writer *w = ramet__calloc(mem, 1, sizeof *w);
    if (!w) return ramet__alloc_status();
    w->fd = -1;
    RAMET__NEW(w->buffer, ramet__alloc(mem, BUFFER));
    RAMET__NEW(w->target, ramet__strndup(mem, path, length));
    RAMET__NEW(w->temp, ramet__calloc(mem, temp_size, 1));
    const char *slash = strrchr(path, '/');
    RAMET__NEW(w->folder, slash ? ramet__strndup(mem, path, slash == path ? 1 : (size_t)(slash - path)) : ramet__strdup(mem, "."));
    ramet__writer_sweep(w->folder, slash ? slash + 1 : path);
    RAMET__GO(make_temp(w, temp_size));
    *out = w;
    return RAMET_OK;
out:
    destroy(w);
    return st;
}

static ramet_status write_out(ramet__writer *w, const uint8_t *p, size_t size) {
    while (size > 0) {
        const ssize_t n = write(w->fd, p, RAMET__MIN(size, WRITE_MOST));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            const int code = errno;
            ramet__fail_errno(code, "%s: cannot be written at offset %llu (the old file is kept)", w->target, (unsigned long long)(w->offset - size));
            return w->status = RAMET_E_IO;
        }
        p += n;
        size -= (size_t)n;
    }
    return RAMET_OK;
}

static ramet_status flush(ramet__writer *w) {
    const size_t held = w->held;
    w->held = 0;
    return write_out(w, w->buffer, held);
}

static ramet_status failed_before(const ramet__writer *w) {
    return ramet__fail(w->status, "%s: an earlier write failed", w->target);
}

ramet_status ramet__writer_write(ramet__writer *writer, const void *data, size_t size) {
    if (writer->status) return failed_before(writer);
    writer->offset += size;
    if (size > BUFFER - writer->held) {
        RAMET__TRY(flush(writer));
        if (size >= BUFFER) return write_out(writer, data, size);
    }
    if (size) memcpy(writer->buffer + writer->held, data, size);
    writer->held += size;
    return RAMET_OK;
}

uint64_t ramet__writer_offset(const ramet__writer *writer) { return writer->offset; }

static ramet_status io_error(int code, const ramet__writer *w, const char *what) {
    ramet__fail_errno(code, "%s: %s", w->target, what);
    return RAMET_E_IO;
}

/* Some file systems cannot sync a folder and say so; that is not a failure of the disk. */
static int sync_folder(int fd) {
    if (fsync(fd) == 0 || errno == EINVAL || errno == ENOTSUP || errno == EROFS) return 0;
    return errno;
}

ramet_status ramet__writer_commit(ramet__writer **writer) {
    ramet__writer *w = *writer;
    *writer = NULL;
    ramet_status st = RAMET_OK;
    int folder = -1;
    if (w->status) {
        st = failed_before(w);
        goto out;
    }
    RAMET__GO(flush(w));
    if (fsync(w->fd)) {
        st = io_error(errno, w, "could not be brought to the disk (the old file is kept)");
        goto out;
    }
    const int closed = close(w->fd), close_code = errno;
    w->fd = -1;
    if (closed && close_code != EINTR) {
        st = io_error(close_code, w, "could not be closed (the old file is kept)");
        goto out;
    }
    folder = open(w->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* before the rename, so that nothing but fsync can fail after it */
    if (folder < 0 && errno != EACCES) {
        st = io_error(errno, w, "its folder cannot be opened (the old file is kept)");
        goto out;
    }
    if (rename(w->temp, w->target)) {
        st = io_error(errno, w, "cannot take its place (the old file is kept)");
        goto out;
    }
    w->temp[0] = 0;
    const int code = folder < 0 ? 0 : sync_folder(folder);
    if (code) st = io_error(code, w, "is in place, but its folder could not be brought to the disk");
out:
    if (folder >= 0) close(folder);
    destroy(w);
    return st;
}

void ramet__writer_drop(ramet__writer **writer) {
    if (!writer || !*writer) return;
    destroy(*writer);
    *writer = NULL;
}

int32_t ramet__path_kind(const char *path) {
    struct stat info;
    if (!path || stat(path, &info)) return 0;
    return S_ISDIR(info.st_mode) ? 2 : 1;
}

ramet_status ramet__dir_make(const char *path) {
    char part[PATH_BYTES];
    const size_t n = path ? strlen(path) : 0;
    if (n == 0 || n >= sizeof part) return ramet__fail(RAMET_E_ARGUMENT, "the folder's path is %s", n ? "too long" : "empty");
    memcpy(part, path, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (part[i] != '/' && part[i] != 0) continue;
        part[i] = 0;
        if (mkdir(part, 0777)) {
            const int code = errno;
            if (ramet__path_kind(part) != 2) {
                ramet__fail_errno(code, "%s: the folder cannot be made", part);
                return RAMET_E_IO;
            }
        }
        if (i < n) part[i] = '/';
    }
    return RAMET_OK;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

ramet_status ramet__dir_list(char ***names, ramet__mem *mem, const char *path) {
    ramet_status st = RAMET_OK;
    char *text = NULL; /* NUL-terminated names one after the other */
    int64_t cap = 0, len = 0, count = 0;
    DIR *dir = path ? opendir(path) : NULL;
    if (!dir) return path ? ramet__fail_errno(errno, "%s: the folder cannot be read", path) : ramet__fail(RAMET_E_ARGUMENT, "the folder's path is NULL");
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(dir);
        if (!entry) break;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        const size_t n = strlen(entry->d_name) + 1;
        RAMET__GO(ramet__grow(mem, &text, &cap, len + (int64_t)n, 1));
        memcpy(text + len, entry->d_name, n);
        len += (int64_t)n;
        count++;
    }
    if (errno) {
        ramet__fail_errno(errno, "%s: the folder cannot be read", path);
        st = RAMET_E_IO;
        goto out;
    }
    char **list;
    RAMET__NEW(list, ramet__alloc(mem, (size_t)(count + 1) * sizeof *list + (size_t)len));
    char *at = (char *)(list + count + 1);
    if (len) memcpy(at, text, (size_t)len);
    for (int64_t i = 0; i < count; i++, at += strlen(at) + 1) list[i] = at;
    list[count] = NULL;
    qsort(list, (size_t)count, sizeof *list, by_name);
    *names = list;
out:
    closedir(dir);
    ramet__free(text);
    return st;
}

ramet_status ramet__file_remove(const char *path) {
    if (!path) return ramet__fail(RAMET_E_ARGUMENT, "the path to remove is NULL");
    if (unlink(path)) return ramet__fail_errno(errno, "%s: cannot be removed", path);
    return RAMET_OK;
}
