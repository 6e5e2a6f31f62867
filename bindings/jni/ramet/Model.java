/* SPDX-License-Identifier: Apache-2.0 */
package ramet;

import java.nio.charset.StandardCharsets;

/** A loaded model. Safe to use from several threads; close it when no call is running. */
public final class Model implements AutoCloseable {
    /** Progress of long work, called on the calling thread. */
    public interface Progress {
        /** @param fraction 0..1, negative when unknown; @return false to cancel the call */
        boolean proceed(double fraction);
    }

    /** Receives a reply while it is made, on the calling thread. */
    public interface Listener {
        /** @param text whole characters, may be empty; @return false to stop here, which is no error */
        boolean token(int id, byte[] text);
    }

    long handle;

    private Model(long handle) {
        this.handle = handle;
    }

    /** Load a GGUF file or a Hugging Face folder. threads 0: one per processor. */
    public static Model load(String path, int threads) {
        return new Model(Native.load(utf8(path), threads));
    }

    public static String libraryVersion() {
        return new String(Native.version(), StandardCharsets.UTF_8);
    }

    /** Continue the prompt greedily. listener and progress may be null. */
    public String generate(String prompt, int maxTokens, Listener listener, Progress progress) {
        return new String(Native.generate(open(), utf8(prompt), maxTokens, listener, progress), StandardCharsets.UTF_8);
    }

    @Override
    public void close() {
        Native.freeModel(handle);
        handle = 0;
    }

    long open() {
        if (handle == 0) throw new IllegalStateException("the model is closed");
        return handle;
    }

    static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
