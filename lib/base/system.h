/* SPDX-License-Identifier: Apache-2.0 */
/* system.h - three things that only the operating system has: a lock between processes, entropy, the date. */
#ifndef RAMET__SYSTEM_H
#define RAMET__SYSTEM_H
#include "status.h"
/* Wait for the exclusive lock on a file (made if absent). *fd is needed to release it; it ends with the process too. */
ramet_status ramet__lock_take(int32_t *fd, const char *path);
void ramet__lock_release(int32_t fd);
ramet_status ramet__entropy(void *dst, size_t bytes); /* at most 256 bytes */
void ramet__utc(char text[21]);                       /* "2026-01-31T23:59:59Z" */
/* `bytes` zeros in a new file, all of its room taken from the disk at once, mapped for reading and writing. keep 0: the file has no name from here on. */
ramet_status ramet__room_open(void **out, const char *path, uint64_t bytes, int32_t keep);
void ramet__room_rest(void *at, uint64_t bytes);    /* its pages may leave memory; they come back from the file */
void ramet__room_close(void *room, uint64_t bytes); /* NULL is fine */
double ramet__seconds(void);                          /* monotonic */
#endif
