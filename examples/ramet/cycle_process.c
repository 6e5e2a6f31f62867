/* SPDX-License-Identifier: Apache-2.0 */
/* cycle_process.c - parent and variants are separate processes that share nothing but files: this program, started again. */
#include "cycle.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct child_process { pid_t pid; int fd; jbuf out; int job; } child_process;

static void log_command(const cycle *y, const char *const *args) {
    char path[600];
    snprintf(path, sizeof path, "%s/commands.log", y->dir);
    FILE *f = fopen(path, "a");
    if (!f) return;
    fprintf(f, "ramet");
    for (int i = 0; args[i]; i++) fprintf(f, strchr(args[i], ' ') ? " '%s'" : " %s", args[i]);
    fputc('\n', f);
    fclose(f);
}

static int start(const cycle *y, child_process *p, const char *const *args, const char *threads) {
    const char *argv[48];
    int fd[2], n = 0;
    log_command(y, args);
    argv[n++] = y->self;
    for (int i = 0; args[i]; i++) argv[n++] = args[i];
    argv[n++] = "--json";
    if (threads) { argv[n++] = "--threads"; argv[n++] = threads; }
    argv[n] = NULL;
    if (pipe(fd)) return fprintf(stderr, "ramet cycle: pipe: %s\n", strerror(errno)), EXIT_FAILED;
    fcntl(fd[0], F_SETFD, FD_CLOEXEC);
    if ((p->pid = fork()) < 0) {
        close(fd[0]);
        close(fd[1]);
        return fprintf(stderr, "ramet cycle: fork: %s\n", strerror(errno)), EXIT_FAILED;
    }
    if (!p->pid) {
        dup2(fd[1], 1);
        close(fd[1]);
        execv(y->self, (char *const *)(uintptr_t)argv);
        fprintf(stderr, "ramet cycle: %s: %s\n", y->self, strerror(errno));
        _exit(127);
    }
    close(fd[1]);
    p->fd = fd[0];
    p->out = (jbuf){0};
    return 0;
}

static int finish(child_process *p, job *j) {
    int status = 0;
    while (waitpid(p->pid, &status, 0) < 0 && errno == EINTR) {}
    close(p->fd);
    j->out = p->out.data ? p->out.data : calloc(1, 1);
    j->code = WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILED;
    p->pid = 0;
    return j->code;
}

static int run_jobs(cycle *y, job *jobs, int n, int at_once, const char *threads) {
    child_process p[64];
    int running = 0, next = 0, failed = 0;
    while (next < n || running) {
        while (next < n && running < at_once && !failed && !cli_interrupted()) {
            if ((failed = start(y, &p[running], jobs[next].args, threads))) break;
            p[running++].job = next++;
        }
        if (!running) break;
        struct pollfd fds[64];
        for (int i = 0; i < running && i < 64; i++) fds[i] = (struct pollfd){p[i].fd, POLLIN, 0};
        if (poll(fds, (nfds_t)(unsigned)running, 1000) < 0 && errno != EINTR) break;
        for (int i = running; i-- > 0;) {
            char part[4096];
            if (!(fds[i].revents & (POLLIN | POLLHUP))) continue;
            ssize_t got = read(p[i].fd, part, sizeof part);
            if (got > 0) { j_add(&p[i].out, "%.*s", (int)got, part); continue; }
            if (got < 0 && errno == EINTR) continue;
            failed |= finish(&p[i], &jobs[p[i].job]) > 1; /* 1 is an answer (a gate that fails); the caller judges */
            p[i] = p[--running];
        }
    }
    return failed || cli_interrupted() ? EXIT_FAILED : 0;
}

int cycle_run(cycle *y, char **out, const char *const *args) {
    job j = {.out = NULL};
    char threads[16];
    int n = 0;
    snprintf(threads, sizeof threads, "%d", ramet_runtime_threads(y->c->rt));
    for (; args[n]; n++) j.args[n] = args[n];
    j.args[n] = NULL;
    int code = run_jobs(y, &j, 1, 1, threads);
    if (out) *out = j.out;
    else free(j.out);
    return code ? code : j.code;
}

int cycle_run_all(cycle *y, job *jobs, int n) {
    int threads = ramet_runtime_threads(y->c->rt);
    int code = run_jobs(y, jobs, n, threads < 64 ? threads : 64, "1");
    for (int i = 0; i < n; i++) code |= jobs[i].code;
    return code;
}
