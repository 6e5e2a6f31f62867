/* SPDX-License-Identifier: Apache-2.0 */
import java.util.Arrays;
import ramet.Model;
import ramet.RametException;
import ramet.Tuner;

/** Load, generate, tune, cancel, and errors as exceptions, on a JVM. Argument: the tiny model. */
public final class Smoke {
    private static void check(boolean condition, String what) {
        if (!condition) throw new AssertionError(what);
    }

    public static void main(String[] args) throws Exception {
        try {
            Model.load(args[0] + ".missing", 1);
            check(false, "a missing file was loaded");
        } catch (RametException e) {
            check(e.getMessage().contains(".missing"), "the message names the file: " + e.getMessage());
        }

        try (Model model = Model.load(args[0], 2)) {
            int[] tokens = {0};
            StringBuilder streamed = new StringBuilder();
            String reply = model.generate("the animals of", 12, (id, text) -> {
                tokens[0]++;
                streamed.append(new String(text, java.nio.charset.StandardCharsets.UTF_8));
                return true;
            }, null);
            check(tokens[0] > 0 && tokens[0] <= 12, "1 to 12 tokens, not " + tokens[0]);
            check(reply.contentEquals(streamed), "the stream is the reply");
            check(reply.equals(model.generate("the animals of", 12, null, null)), "greedy is repeatable");

            int[] stopped = {0};
            model.generate("the animals of", 12, (id, text) -> ++stopped[0] < 2, null);
            check(stopped[0] <= 2, "a listener stops the reply");
            try {
                model.generate("the animals of", 12, null, fraction -> false);
                check(false, "a cancelled call returned");
            } catch (RametException e) {
                check(e.status == RametException.CANCELLED, "cancelled, not " + e.status + ": " + e.getMessage());
            }
            try {
                model.generate("the animals of", 12, (id, text) -> { throw new ArithmeticException("mine"); }, null);
                check(false, "a callback's exception was lost");
            } catch (ArithmeticException e) {
                check(e.getMessage().equals("mine"), "another exception came back");
            }

            String[] texts = new String[8];
            Arrays.fill(texts, "the rain in the plain is on the train and the hen is in the rain. ".repeat(8));
            try (Tuner tuner = new Tuner(model, texts, 4, 10, 1e-2f, 32, 2)) {
                try {
                    tuner.step(1, fraction -> false);
                    check(false, "a cancelled step returned");
                } catch (RametException e) {
                    check(e.status == RametException.CANCELLED, "cancelled, not " + e.status + ": " + e.getMessage());
                }
                double first = tuner.step(1, null);
                check(tuner.stepsMade() == 1 && !tuner.done(), "one step was made");
                double last = tuner.step(100, null);
                check(tuner.stepsMade() == 10 && tuner.done(), "ten steps were made");
                check(last < first, "the loss falls: " + first + " -> " + last);
            }
        }
        System.out.println("ok " + Model.libraryVersion());
    }
}
