/* SPDX-License-Identifier: Apache-2.0 */
/* main.c - the command line: finds the command and runs it. Exit codes: 0 ok, 1 failed, 2 usage. */
#include "cli.h"
#include <signal.h>
#include <string.h>

const command commands[] = {
    {"info", "FILE|FOLDER", "what a file is: model, adapter, brief, update, checkpoint, store; what would leave the device", cmd_info},
    {"list", "archs|encodings|ops|methods|kernels|isas|optimizers|schedules", "what this build has", cmd_list},
    {"tokenize", "MODEL (-p TEXT | -f FILE)", "text to ids", cmd_tokenize},
    {"embed", "MODEL (-p TEXT | -f FILE)", "texts to vectors, with an encoder", cmd_embed},
    {"run", "MODEL (-p TEXT | -f FILE)", "generate text", cmd_run},
    {"eval", "MODEL --text FILE", "loss and perplexity on a text", cmd_eval},
    {"quantize", "IN OUT --type Q4_0", "the same model in another encoding", cmd_quantize},
    {"prune", "IN OUT --calib FILE", "a smaller dense model: fewer layers and FFN channels", cmd_prune},
    {"rebase", "VARIANT PARENT OUT", "the same variant of a newer parent", cmd_rebase},
    {"tune", "MODEL --data FILE -o OUT", "adapt to a text: LoRA, or every weight", cmd_tune},
    {"classify", "MODEL (--data FILE -o OUT | --with FILE)", "labels of texts, with an encoder or a llama", cmd_classify},
    {"merge", "MODEL --lora A[:scale] -o OUT", "adapters added into the weights", cmd_merge},
    {"init", "STORE MODEL", "make a store with the model as version 1", cmd_init},
    {"brief", "STORE -o BRIEF", "what the parent sends down", cmd_brief},
    {"update", "VARIANT --brief BRIEF --lora A -o UPDATE", "what a variant sends back", cmd_update},
    {"feed", "STORE UPDATE... --method NAME -o CANDIDATE", "fold updates into a candidate parent", cmd_feed},
    {"gate", "STORE CANDIDATE --eval FILE...", "measure a candidate against the parent", cmd_gate},
    {"commit", "STORE", "make the candidate that passed the new parent", cmd_commit},
    {"undo", "STORE", "step back to the version before", cmd_undo},
    {"log", "STORE", "the ledger", cmd_log},
    {"bench", "MODEL", "tokens per second: prefill and decode", cmd_bench},
    {"cycle", "PARENT --domain NAME=FILE... -o DIR", "the whole loop: variants are born, adapt, and feed back", cmd_cycle},
};
const int n_commands = (int)(sizeof commands / sizeof commands[0]);

static void print_help(FILE *to) {
    fprintf(to, "ramet %s - small models are born of a large one, adapt where they live, and feed back what they learned\n\nusage: ramet COMMAND ...\n\n", ramet_version_string());
    for (int i = 0; i < n_commands; i++) fprintf(to, "  %-9s %-44s %s\n", commands[i].name, commands[i].arguments, commands[i].summary);
    fprintf(to, "\nEvery command has --json (one object on stdout), --threads N, --help. Exit code: 0 ok, 1 failed, 2 usage.\n");
}

int main(int argc, char **argv) {
    cli c = {.threads = 0};
    if (argc < 2) {
        print_help(stderr);
        return EXIT_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        print_help(stdout);
        return 0;
    }
    if (!strcmp(argv[1], "--version")) {
        printf("ramet %s\n", ramet_version_string());
        return 0;
    }
    signal(SIGPIPE, SIG_DFL);
    for (int i = 0; i < n_commands; i++) {
        if (strcmp(commands[i].name, argv[1])) continue;
        c.command = commands[i].name;
        int code = commands[i].run(&c, argc - 2, argv + 2);
        cli_progress_clear();
        ramet_runtime_free(c.rt);
        return code;
    }
    fprintf(stderr, "ramet: no command is named \"%s\"; ramet --help lists them\n", argv[1]);
    return EXIT_USAGE;
}
