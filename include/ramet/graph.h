/* SPDX-License-Identifier: Apache-2.0 */
/**
 * ramet/graph.h - small nets of your own: a graph of operations over rows, its gradients, its variables, programs that run it. Not yet
 * promised: may change in any release, as ramet/experimental.h.
 *
 * Graph: a list of operations in SSA form that grows; a value is a number. Values are rows [rows, columns] (RAMET_AXIS_ROWS or _OUTS: as many as a
 * run says, at most the graph's maximum), one row [columns], or a matrix. Numbers are floats, or int32 indices that come in as inputs. An
 * operation is found by name, with other settings as text:
 *
 *     ramet_graph_apply(&y, 1, g, "conv2d", (int32_t[]){x, w, b}, 3, "height=28,width=28,kernel=5");
 *
 * ramet_list("graph", i) names them; the detail is the signature, "x w bias? height= width= kernel= stride=1 pad=0 -> y: what it is": inputs first
 * (with ?: may be left out at the end, or be -1), then settings; those without a value must be given. Images are rows [height*width*channels],
 * channels last. A gradient is more graph, so it can be differentiated again. A call that fails leaves the graph as good as it was.
 *
 * Variables: named F32 tensors of one or two dimensions outside any graph, each with its gradient sum and the optimizer's moments. Programs read
 * them where they lie: no copy in or out, and programs over the same variables share them. They must outlive the graphs and programs that name
 * them, which retain them. ramet_graph_train adds to a graph what sums the gradients of a loss up; ramet_variables_step uses and clears them.
 *
 * Program: a graph fused and laid out; running it allocates nothing. It keeps what it needs of the graph, which may be freed or go on growing.
 *
 * Thread rule: one thread at a time uses a graph, a program, or the variables; a run or a step uses its variables.
 */
#ifndef RAMET_GRAPH_H
#define RAMET_GRAPH_H
#include "model.h"
#ifdef __cplusplus
extern "C" {
#endif
#define RAMET_TYPE_F32 0
#define RAMET_TYPE_I32 1
#define RAMET_AXIS_STATIC 0 /**< one row */
#define RAMET_AXIS_ROWS 1
#define RAMET_AXIS_OUTS 2

/* ---- variables ---- */
typedef struct ramet_variables ramet_variables;
/** Reference counted; retains the runtime. Since 0.1. */
RAMET_API ramet_status ramet_variables_create(ramet_variables **out, ramet_runtime *runtime);
RAMET_API void ramet_variables_free(ramet_variables *variables);
/**
 * A new variable [rows, columns]; rows 0: one row [columns]. rule: "zeros", "ones", "normal", "uniform", "he", "glorot", the last four with an
 * optional number after a colon: "normal:.02" deviation (1), "uniform:.1" limit (1); "he" normal with variance 2 / columns (He 2015), "glorot" uniform with
 * limit sqrt(6 / (rows + columns)) (Glorot 2010), both times the number. Element i is a function of seed, name and i. trainable 0: no step moves it
 * (running statistics). E_ARGUMENT: the name is taken, a size or rule is wrong. Since 0.1.
 */
RAMET_API ramet_status ramet_variables_add(ramet_variables *variables, const char *name, int64_t rows, int64_t columns, const char *rule, uint64_t seed, int32_t trainable);
RAMET_API int64_t ramet_variables_count(const ramet_variables *variables);
/** Name (valid as long as the variables), sizes (rows 0: one row) and whether it is trained; any may be NULL. E_NOT_FOUND past the end. Since 0.1. */
RAMET_API ramet_status ramet_variables_at(const char **name, int64_t *rows, int64_t *columns, int32_t *trainable, const ramet_variables *variables, int64_t index);
/** The numbers of one, row after row; `count` must be its own. E_NOT_FOUND, E_ARGUMENT. gradient 1: the sums of gradients instead. Since 0.1. */
RAMET_API ramet_status ramet_variables_read(float *out, int64_t count, const ramet_variables *variables, const char *name, int32_t gradient);
RAMET_API ramet_status ramet_variables_write(ramet_variables *variables, const char *name, const float *values, int64_t count);
/** One safetensors file with all values (not gradients or moments), written whole or not at all. Since 0.1. */
RAMET_API ramet_status ramet_variables_save(const ramet_variables *variables, const char *path);
/** Values from such a file: those that are there are overwritten, others added, trainable. E_INCONSISTENT: another shape; then nothing has changed. Since 0.1. */
RAMET_API ramet_status ramet_variables_load(ramet_variables *variables, const char *path);

typedef struct ramet_step_options {
    uint32_t struct_size;
    const char *optimizer; /**< a name of the tuner's optimizers: "adamw" (default), "sgd" */
    float learning_rate;   /**< default .001 */
    float beta1, beta2;    /**< default .9, .999; sgd: beta1 is the momentum */
    float epsilon;         /**< default 1e-8 */
    float weight_decay;    /**< default 0; of variables with two dimensions */
    float clip;            /**< gradients' L2 norm is brought down to it; 0 (default): no limit */
} ramet_step_options;
RAMET_API void ramet_step_options_init(ramet_step_options *options, uint32_t struct_size);
/**
 * One step of the optimizer for every trainable variable whose gradients a program has summed up since the last step; clears the sums.
 * *norm (may be NULL): their L2 norm. E_NUMERIC: it is not finite; the sums are cleared and nothing else has changed. Another optimizer than in the
 * last step begins with new moments. Since 0.1.
 */
RAMET_API ramet_status ramet_variables_step(double *norm, ramet_variables *variables, const ramet_step_options *options);

/* ---- graphs ---- */
typedef struct ramet_graph ramet_graph;
/** For runs of at most max_rows rows and max_outs outs. Since 0.1. */
RAMET_API ramet_status ramet_graph_create(ramet_graph **out, ramet_runtime *runtime, int64_t max_rows, int64_t max_outs);
RAMET_API void ramet_graph_free(ramet_graph *graph);
/** A value that a run is given, by name: [count of the axis, columns]; columns 0: one index or number a row. The same name gives the same value. Since 0.1. */
RAMET_API ramet_status ramet_graph_input(int32_t *out, ramet_graph *graph, const char *name, int32_t type, int32_t axis, int64_t columns);
/** One number [1]. Since 0.1. */
RAMET_API ramet_status ramet_graph_constant(int32_t *out, ramet_graph *graph, float number);
/** A variable; after a write, what it will hold after the run. E_NOT_FOUND. Since 0.1. */
RAMET_API ramet_status ramet_graph_variable(int32_t *out, ramet_graph *graph, ramet_variables *variables, const char *name);
/**
 * An operation. Its results go to outs[0..n_outs); fewer than it has may be asked for. settings: "stride=2,pad=1", NULL: defaults. E_NOT_FOUND: no such
 * operation; E_ARGUMENT: inputs, shapes or settings do not fit: the message says which and gives the signature. Since 0.1.
 */
RAMET_API ramet_status ramet_graph_apply(int32_t *outs, int32_t n_outs, ramet_graph *graph, const char *op, const int32_t *in, int32_t n_in, const char *settings);
/**
 * The loop with a body of your own, as recurrent nets need it. Each step of it runs the graph `body` on one row of every sequence, from the first row to the last (reversed 1: back).
 * seq: the sequence of each row, an int32 input; rows of a sequence stand together. names[i] is an input of the body, or a variable that it reads, and is given in[i]: rows, of which
 * a step sees its own, or one row [columns] or matrix, the same in every step. The body's other inputs are the carried state: rows, zero at first, then the body's output of the same
 * name. The body's outputs are the results outs[], in their order: rows of all steps; of outputs that are no rows the sum over steps. At most the body's max_rows
 * sequences are run at once. On success the body's handle is gone: it belongs to the graph. Gradients of any order are scans the other way round. E_ARGUMENT says what does
 * not fit; the body is then still yours. Since 0.1.
 */
RAMET_API ramet_status ramet_graph_scan(int32_t *outs, int32_t n_outs, ramet_graph *graph, ramet_graph *body, const char *const *names, const int32_t *in, int32_t n_in, int32_t seq,
                                        int32_t reversed);
/** A value's axis, most rows and columns; any may be NULL. Since 0.1. */
RAMET_API ramet_status ramet_graph_shape(int32_t *axis, int64_t *rows, int64_t *columns, const ramet_graph *graph, int32_t value);
/**
 * d(loss) / d(wrt[i]) -> grads[i], more graph; -1 where the loss does not depend on it. loss is one number [1]; wrt: any values of floats. E_UNSUPPORTED
 * names an operation that has no derivative. Since 0.1.
 */
RAMET_API ramet_status ramet_graph_gradient(int32_t *grads, ramet_graph *graph, int32_t loss, const int32_t *wrt, int32_t n);
/** Add the gradients of `loss` for every trainable variable that it depends on to their sums, in every run. Once a graph and variable. Since 0.1. */
RAMET_API ramet_status ramet_graph_train(ramet_graph *graph, ramet_variables *variables, int32_t loss);
/** Readable by name after a run. Since 0.1. */
RAMET_API ramet_status ramet_graph_output(ramet_graph *graph, const char *name, int32_t value);
/** At the end of every run the variable becomes the value (accumulate 1: plus the value), which has its size and no row axis. Since 0.1. */
RAMET_API ramet_status ramet_graph_write(ramet_graph *graph, ramet_variables *variables, const char *name, int32_t value, int32_t accumulate);

/* ---- models inside ---- */
typedef struct ramet_graph_model_options {
    uint32_t struct_size;
    int32_t full;        /**< 1: the weights (those of `targets`, "norms" being norms and biases; NULL: all) are trained, as F32 variables; default 0 */
    int32_t rank;        /**< above 0: LoRA pairs of this rank on `targets` are trained; default 0: none. Neither: the model is frozen */
    float alpha;         /**< of the pairs; default 32 */
    const char *targets; /**< comma-separated PEFT names; NULL (default): all linear layers */
    uint64_t seed;       /**< of the pairs */
} ramet_graph_model_options;
RAMET_API void ramet_graph_model_options_init(ramet_graph_model_options *options, uint32_t struct_size);
/**
 * A model: its rows [rows, width] after the last norm, before any head or pooling. Inputs (int32, one number a row): "tokens", "pos" (from 0 in each text),
 * "seq" (rows of one text stand together, texts have different numbers); an encoder also "type" (0). Variables <weight>.lora_a and .lora_b, or <weight>,
 * are made where they are not there, so that a graph that trains and one that predicts share them. The graph keeps the weights. E_INCONSISTENT: a
 * variable has another shape. Since 0.1.
 */
RAMET_API ramet_status ramet_graph_model(int32_t *rows, ramet_graph *graph, ramet_variables *variables, const ramet_model *model, const ramet_graph_model_options *options);
/** The pairs of a model's weights as an adapter (alpha as in the graph). E_NOT_FOUND: there are none. Since 0.1. */
RAMET_API ramet_status ramet_variables_adapter(ramet_adapter **out, const ramet_variables *variables, const ramet_model *model, float alpha);
/** The model with the weights that are variables, those in `encoding` (NULL: F32; vectors always). E_NOT_FOUND: there are none. Since 0.1. */
RAMET_API ramet_status ramet_variables_model(ramet_model **out, const ramet_variables *variables, const ramet_model *model, const char *encoding);

/* ---- programs ---- */
typedef struct ramet_program ramet_program;
/** mode: RAMET_MODE_* (ramet/session.h; 0: exact). E_BUDGET names the need. Since 0.1. */
RAMET_API ramet_status ramet_program_create(ramet_program **out, ramet_graph *graph, int32_t mode);
RAMET_API void ramet_program_free(ramet_program *program);
/**
 * One run: inputs by name, at most 16, data[i] of as many elements as the input's shape says for these counts. On failure no variable has
 * changed. progress may be NULL. E_ARGUMENT names a missing or unknown input, an index out of range, a count beyond the maximum. Since 0.1.
 */
RAMET_API ramet_status ramet_program_run(ramet_program *program, int64_t rows, int64_t outs, const char *const *names, const void *const *data, int32_t n, ramet_progress_fn progress,
                                         void *user);
/** An output of the last run: [*rows, *columns] floats, valid until the next. E_NOT_FOUND; E_STATE: no run has succeeded. Since 0.1. */
RAMET_API ramet_status ramet_program_output(const float **values, int64_t *rows, int64_t *columns, const ramet_program *program, const char *name);
/** One line a step: operation, sizes, bytes, and microseconds of a run where the program was made with RAMET_PROGRAM_TIMES in its mode. The caller frees it. Since 0.1. */
RAMET_API ramet_status ramet_program_describe(char **text, const ramet_program *program);
#define RAMET_PROGRAM_TIMES 256 /**< added to a mode: measure steps */
#ifdef __cplusplus
}
#endif
#endif
