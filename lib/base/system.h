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
double ramet__seconds(void);                          /* monotonic */
#endif
