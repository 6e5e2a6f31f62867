/* SPDX-License-Identifier: Apache-2.0 */
/* exp.h - e^x of a vector: x = n ln 2 + r, |r| <= ln 2 / 2 in two steps, a polynomial of degree 6 (relative minimax over the interval,
 * error 3e-9), scaled by 2^n in two factors so that both ends of the range are gradual. Within 1 unit in the last place of normal
 * results where FMA is an instruction, 2 elsewhere; above 88.73 infinity, below -104 zero; NaN stays NaN. */
#ifndef RAMET__EXP_H
#define RAMET__EXP_H
#include "simd/vec.h"

INLINE vf vexp(vf x) {
    x = vmax(vset(-104.0f), vmin(vset(89.0f), x)); /* the second operand is answered when one is NaN */
    vf n = vround(vmul(x, vset(1.44269504f)));
    vf r = vfnma(n, vset(0.693359375f), x);
    r = vfnma(n, vset(-2.12194440e-4f), r);
    vf p = vset(0x1.6a23cep-10f);
    p = vfma(p, r, vset(0x1.123a2p-7f));
    p = vfma(p, r, vset(0x1.5558f2p-5f));
    p = vfma(p, r, vset(0x1.555492p-3f));
    p = vfma(p, r, vset(0x1.fffffcp-2f));
    p = vfma(p, r, vset(1.0f));
    p = vfma(p, r, vset(1.0f));
    vi k = vtoi(n), half = visra(k, 1), rest = visub(k, half);
    p = vmul(p, vcast(visll(viadd(half, viset(127)), 23)));
    return vmul(p, vcast(visll(viadd(rest, viset(127)), 23)));
}

INLINE vf vsigmoid(vf x) { return vdiv(vset(1.0f), vadd(vset(1.0f), vexp(vsub(vzero(), x)))); }
#endif
