/* SPDX-License-Identifier: Apache-2.0 */
#include "check.h"
void check_rows(const ramet__kernels *ref, const ramet__kernels *k, int thorough) {}
void check_gemm(const ramet__kernels *ref, const ramet__kernels *k, int thorough) {}
void check_attention(const ramet__kernels *ref, const ramet__kernels *k, int thorough) {}
