/* SPDX-License-Identifier: Apache-2.0 */
/* file.h - bytes from a path, descriptor + offset, memory or callbacks behind one reader; and files written whole or not. */
#ifndef RAMET__FILE_H
#define RAMET__FILE_H
#include "alloc.h"

typedef struct ramet__reader ramet__reader; /* reference counted, read-only, thread-safe except callbacks (caller's thread only) */
ramet_status ramet__reader_open(ramet__reader **out, ramet__mem *mem, const ramet_source *source);
ramet__reader *ramet__reader_retain(ramet__reader *reader);
void ramet__reader_free(ramet__reader *reader);
const char *ramet__reader_name(const ramet__reader *reader); /* for messages: the path, "<memory>", ... */
uint64_t ramet__reader_size(const ramet__reader *reader);
/* All of [offset, offset+size) or an error naming the offset (short: E_IO "file shrank"). */
ramet_status ramet__reader_read(ramet__reader *reader, void *dst, uint64_t offset, uint64_t size);
/* Pointer to mapped or in-memory bytes (valid as long as the reader), or NULL when this reader must be read. */
const void *ramet__reader_map(const ramet__reader *reader, uint64_t offset, uint64_t size);
/* Tell the system that mapped pages will not be needed soon (they come back from the file on demand). */
void ramet__reader_drop(const ramet__reader *reader, uint64_t offset, uint64_t size);

/* Whole small file into memory (NUL added after size). limit 0: 1 GiB. */
ramet_status ramet__file_read_all(char **data, size_t *size, ramet__mem *mem, const char *path, uint64_t limit);

/* Written whole or not at all: temp file beside the target, fsync, rename, fsync of the folder. What a killed process left of the
 * same target is removed first. */
typedef struct ramet__writer ramet__writer;
ramet_status ramet__writer_open(ramet__writer **out, ramet__mem *mem, const char *path);
ramet_status ramet__writer_write(ramet__writer *writer, const void *data, size_t size);
uint64_t ramet__writer_offset(const ramet__writer *writer);
/* Frees it in every case. On failure the old file is intact, but for one case: the new file is in place and the folder could not
 * be synced; the message says so. */
ramet_status ramet__writer_commit(ramet__writer **writer);
void ramet__writer_drop(ramet__writer **writer);            /* removes the temp file; NULL is fine */
/* Remove the temp files of killed writers: for the target `name` in a folder, NULL: for every target. */
void ramet__writer_sweep(const char *folder, const char *name);

ramet_status ramet__dir_make(const char *path);             /* like mkdir -p */
int32_t ramet__path_kind(const char *path);                 /* 0 nothing, 1 file, 2 folder */
/* Sorted names in a folder (not . and ..), as one NULL-terminated array freed by one ramet__free. */
ramet_status ramet__dir_list(char ***names, ramet__mem *mem, const char *path);
ramet_status ramet__file_remove(const char *path);

/* SHA-256 (FIPS 180-4), for digests of logical weights, updates and ledgers. */
typedef struct ramet__sha256 { uint32_t h[8]; uint64_t bytes; uint8_t block[64]; } ramet__sha256;
void ramet__sha256_init(ramet__sha256 *s);
void ramet__sha256_add(ramet__sha256 *s, const void *data, size_t size);
void ramet__sha256_hex(ramet__sha256 *s, char hex[65]); /* finishes */
uint32_t ramet__crc32c(uint32_t crc, const void *data, size_t size); /* start with 0 */
#endif
