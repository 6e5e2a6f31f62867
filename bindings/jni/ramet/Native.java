/* SPDX-License-Identifier: Apache-2.0 */
package ramet;

/** The C side. Text crosses as UTF-8 bytes, since the JVM's own UTF-8 differs; handles cross as longs. */
final class Native {
    static {
        System.loadLibrary("ramet_jni");
    }

    private Native() {}

    static native byte[] version();
    static native long load(byte[] path, int threads);
    static native void freeModel(long model);
    static native byte[] generate(long model, byte[] prompt, int maxTokens, Model.Listener listener, Model.Progress progress);
    static native long createTuner(long model, byte[][] texts, int rank, long steps, float learningRate, int window, int batch);
    static native void freeTuner(long tuner);
    /** {loss, steps made, 1 when all are made} */
    static native double[] step(long tuner, long steps, Model.Progress progress);
    static native void saveAdapter(long tuner, byte[] path);
}
