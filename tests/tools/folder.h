/* SPDX-License-Identifier: Apache-2.0 */
/* folder.h - a new folder for a test; in_memory, where there is such a place: for thousands of files that are synced. */
#ifndef TOOLS_FOLDER_H
#define TOOLS_FOLDER_H
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline int folder_make(char *path, size_t size, int in_memory) {
    const char *tmp = getenv("TMPDIR");
    if (!tmp) tmp = !in_memory || access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm";
    snprintf(path, size, "%s/ramet-XXXXXX", tmp);
    return mkdtemp(path) ? 0 : -1;
}

static inline int folder_remove(const char *path) {
    char command[400];
    snprintf(command, sizeof command, "rm -rf '%s'", path);
    return system(command);
}
#endif
