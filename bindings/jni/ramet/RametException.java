/* SPDX-License-Identifier: Apache-2.0 */
package ramet;

import java.nio.charset.StandardCharsets;

/** What a failing call of the library becomes: its status and its message. */
public final class RametException extends RuntimeException {
    private static final long serialVersionUID = 1;
    /** A progress callback asked to stop. */
    public static final int CANCELLED = -9;
    /** RAMET_E_...; see ramet/base.h. */
    public final int status;

    RametException(int status, byte[] message) { // called by ramet_jni.c
        super(new String(message, StandardCharsets.UTF_8));
        this.status = status;
    }
}
