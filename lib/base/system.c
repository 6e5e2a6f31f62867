/* SPDX-License-Identifier: Apache-2.0 */
/* system.c - lock, entropy, clock. Used by the store and wherever time is reported. */
#include "system.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
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
