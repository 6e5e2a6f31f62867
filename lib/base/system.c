/* SPDX-License-Identifier: Apache-2.0 */
/* system.c - lock, room in a file, entropy, clock. Used by the store, by a tuner and wherever time is reported. */
#include "system.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

ramet_status ramet__lock_take(int32_t *fd, const char *path) {
    int f = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (f < 0) return ramet__fail(RAMET_E_IO, "%s: cannot open the lock: %s", path, strerror(errno));
    while (flock(f, LOCK_EX)) {
        if (errno == EINTR) continue;
        ramet_status st = ramet__fail(RAMET_E_IO, "%s: cannot lock: %s", path, strerror(errno));
        close(f);
        return st;
    }
    *fd = f;
    return RAMET_OK;
}

void ramet__lock_release(int32_t fd) {
    if (fd >= 0) close(fd);
}

ramet_status ramet__room_open(void **out, const char *path, uint64_t bytes, int32_t keep) {
    if (bytes > PTRDIFF_MAX) return ramet__fail(RAMET_E_LIMIT, "%s: %llu bytes cannot be mapped", path, (unsigned long long)bytes);
    const int f = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600); /* what is there is never overwritten */
    if (f < 0) return ramet__fail_errno(errno, "%s: cannot make the file", path);
    int code;
    do code = posix_fallocate(f, 0, (off_t)bytes); /* without it a full disk would be a SIGBUS later */
    while (code == EINTR);
    void *map = code ? MAP_FAILED : mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
    if (!code && map == MAP_FAILED) code = errno;
    if (code || !keep) unlink(path);
    close(f);
    if (code) {
        const ramet_status st = ramet__fail_errno(code, "%s: no room for %llu bytes", path, (unsigned long long)bytes);
        return st == RAMET_E_MEMORY ? st : RAMET_E_IO;
    }
    *out = map;
    return RAMET_OK;
}
void ramet__room_rest(void *at, uint64_t bytes) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)at / page * page;
    madvise((void *)from, (size_t)((uintptr_t)at + bytes - from), MADV_DONTNEED); /* of a shared file: nothing is lost */
}
void ramet__room_close(void *room, uint64_t bytes) {
    if (room) munmap(room, (size_t)bytes);
}

ramet_status ramet__entropy(void *dst, size_t bytes) {
    if (getentropy(dst, bytes)) return ramet__fail(RAMET_E_IO, "the system gives no entropy: %s", strerror(errno));
    return RAMET_OK;
}

void ramet__utc(char text[21]) {
    time_t now = time(NULL);
    struct tm tm;
    gmtime_r(&now, &tm);
    strftime(text, 21, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

double ramet__seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
