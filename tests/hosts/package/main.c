/* SPDX-License-Identifier: Apache-2.0 */
/* The program that package.sh builds against the installed library. */
#include <ramet/ramet.h>
#include <stdio.h>

int main(void) {
    ramet_runtime *runtime = NULL;
    if (ramet_runtime_create(&runtime, NULL) != RAMET_OK) return fprintf(stderr, "%s\n", ramet_last_error()), 1;
    printf("ramet %s, %s\n", ramet_version_string(), ramet_runtime_isa(runtime));
    ramet_runtime_free(runtime);
    return ramet_version() != ((RAMET_VERSION_MAJOR << 16) | (RAMET_VERSION_MINOR << 8) | RAMET_VERSION_PATCH);
}
