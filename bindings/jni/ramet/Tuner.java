/* SPDX-License-Identifier: Apache-2.0 */
package ramet;

/** A model being adapted on texts with LoRA. One thread at a time. It keeps the model alive by itself. */
public final class Tuner implements AutoCloseable {
    private long handle;
    private double[] report = {Double.NaN, 0, 0};

    public Tuner(Model model, String[] texts, int rank, long steps, float learningRate, int window, int batch) {
        byte[][] documents = new byte[texts.length][];
        for (int i = 0; i < texts.length; i++) documents[i] = Model.utf8(texts[i]);
        handle = Native.createTuner(model.open(), documents, rank, steps, learningRate, window, batch);
    }

    /** Make at most this many optimizer steps; returns the loss of the last. After a cancelled call the next one continues. */
    public double step(long steps, Model.Progress progress) {
        report = Native.step(open(), steps, progress);
        return report[0];
    }

    public long stepsMade() {
        return (long) report[1];
    }

    public boolean done() {
        return report[2] != 0;
    }

    /** Write what was learned: a path that ends in .gguf, or a PEFT folder. */
    public void saveAdapter(String path) {
        Native.saveAdapter(open(), Model.utf8(path));
    }

    @Override
    public void close() {
        Native.freeTuner(handle);
        handle = 0;
    }

    private long open() {
        if (handle == 0) throw new IllegalStateException("the tuner is closed");
        return handle;
    }
}
