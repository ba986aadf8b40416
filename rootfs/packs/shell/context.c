/*
 * A context: a Bash that keeps its variables, functions and directory between runs.
 *
 *     {"call":"run","code":...,"traceparent":...} -> started -> (output)* -> error? -> done
 *
 * One line of JSON each, on the initial standard input. This library is preloaded into an ordinary,
 * non-interactive Bash with empty input. When Bash would end, by exit(3), the library takes over.
 * It waits for code and makes Bash read it as its input. No part of this is Bash code, so the
 * caller's code cannot see or name it. `exit`, `set -e` and so on still call exit(3), which ends the
 * run.
 *
 * The functions and variables of Bash are those that it exports for loadable builtins.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* Maximum size of a call, in bytes (64 MiB), which the host enforces. */
#define CALL_BYTES_MAX ((size_t)64 << 20)
/* Read size, and maximum size of the buffer between calls, in bytes. */
#define PIECE_BYTES ((size_t)64 << 10)
/* First descriptor of the context's own, if possible: scripts rarely use such numbers. */
#define OWN_FD 1000
/* Offset of a signal number in the status of a command. */
#define SIGNALLED 128
/* Status of code with a NUL character. */
#define STATUS_NO_CODE 2
/* Bash's numbers of traps: EXIT, the signals, and DEBUG, ERR and RETURN. */
#define TRAP_EXIT 0
#define TRAPS (_NSIG + 3)
/* Variable of the span that a run belongs to, and the room for its value, in bytes. */
#define PARENT "TRACEPARENT"
#define PARENT_BYTES 64
/* Value of `EOF_Reached` when the shell has to exit, and not at the end of its input. */
#define EXITING (-1)

/* Symbols that Bash exports for loadable builtins. Weak, so that a missing one is reported here and
 * not by the dynamic linker. */
#define OF_BASH extern __attribute__((weak, visibility("default")))
typedef union {
    void *file;
    char *text;
    int descriptor;
} input_location;
OF_BASH int reader_loop(void);
OF_BASH void exit_shell(int);
OF_BASH void init_yy_io(int (*)(void), int (*)(int), int, const char *, input_location);
OF_BASH void reset_parser(void);
OF_BASH void pop_stream(void);
OF_BASH void *set_buffered_stream(int, void *);
OF_BASH void run_unwind_protects(void);
OF_BASH void parse_and_execute_cleanup(int);
OF_BASH void reset_local_contexts(void);
OF_BASH void dispose_used_env_vars(void);
OF_BASH void unlink_fifo_list(void);
OF_BASH void cleanup_the_pipeline(void);
OF_BASH void stop_making_children(void);
OF_BASH void restore_sigmask(void);
OF_BASH void run_trap_cleanup(int);
OF_BASH void clear_pending_traps(void);
OF_BASH void restore_default_signal(int);
OF_BASH void restore_traps(void);
OF_BASH int signal_is_trapped(int);
OF_BASH void sigint_sighandler(int);
OF_BASH void termsig_sighandler(int);
OF_BASH void trap_handler(int);
OF_BASH void initialize_signals(int);
OF_BASH char *get_current_options(void);
OF_BASH void set_current_options(const char *);
OF_BASH void set_shellopts(void);
OF_BASH void adjust_shell_level(int);
OF_BASH char *get_string_value(const char *);
OF_BASH char *dollar_vars[];
OF_BASH void *stream_list, *this_shell_function;
OF_BASH int shell_initialized, EOF_Reached, last_command_exit_value, line_number;
OF_BASH int default_buffered_input, current_command_number, read_but_dont_execute;
OF_BASH int array_needs_making;
OF_BASH int indirection_level, executing, parse_and_execute_level, running_trap;
OF_BASH int loop_level, continuing, breaking, funcnest, sourcelevel, return_catch_flag;
OF_BASH int executing_list, comsub_ignore_return, wait_intr_flag;
OF_BASH volatile sig_atomic_t interrupt_state;

#define NEEDED(name) {#name, (const void *)(uintptr_t)&name}
static const struct {
    const char *name;
    const void *address;
} needed[] = {
    NEEDED(reader_loop), NEEDED(exit_shell), NEEDED(init_yy_io), NEEDED(reset_parser),
    NEEDED(pop_stream), NEEDED(set_buffered_stream), NEEDED(run_unwind_protects),
    NEEDED(parse_and_execute_cleanup), NEEDED(reset_local_contexts),
    NEEDED(dispose_used_env_vars), NEEDED(unlink_fifo_list), NEEDED(cleanup_the_pipeline), NEEDED(stop_making_children), NEEDED(restore_sigmask),
    NEEDED(run_trap_cleanup), NEEDED(clear_pending_traps), NEEDED(restore_default_signal),
    NEEDED(restore_traps),
    NEEDED(signal_is_trapped), NEEDED(sigint_sighandler), NEEDED(termsig_sighandler),
    NEEDED(trap_handler), NEEDED(initialize_signals), NEEDED(get_current_options),
    NEEDED(set_current_options), NEEDED(set_shellopts), NEEDED(adjust_shell_level),
    NEEDED(dollar_vars), NEEDED(stream_list), NEEDED(this_shell_function),
    NEEDED(shell_initialized), NEEDED(EOF_Reached), NEEDED(last_command_exit_value),
    NEEDED(line_number), NEEDED(default_buffered_input), NEEDED(current_command_number),
    NEEDED(read_but_dont_execute), NEEDED(indirection_level), NEEDED(executing),
    NEEDED(parse_and_execute_level), NEEDED(running_trap), NEEDED(loop_level),
    NEEDED(continuing), NEEDED(breaking), NEEDED(funcnest), NEEDED(sourcelevel),
    NEEDED(return_catch_flag), NEEDED(executing_list), NEEDED(comsub_ignore_return),
    NEEDED(wait_intr_flag), NEEDED(interrupt_state), NEEDED(get_string_value),
    NEEDED(array_needs_making),
};

/* Functions of the C library that this library overrides. */
static struct {
    void (*exit)(int) __attribute__((noreturn));
    int (*close)(int);
    int (*dup2)(int, int);
    int (*fcntl)(int, int, ...);
    pid_t (*fork)(void);
    int (*execve)(const char *, char *const *, char *const *);
    int (*sigaction)(int, const struct sigaction *, struct sigaction *);
} libc;

/* The old version of dlsym(3), which every C library has. */
__asm__(".symver dlsym_of_old, dlsym@GLIBC_2.2.5");
void *dlsym_of_old(void *, const char *);

/* Whether this process is the context's shell, and not a child of it. */
static int at_home;
/* Descriptors hidden from the caller: the channel, and the initial standard streams. */
enum { CHANNEL, STREAMS, OWN = STREAMS + 3 };
static int own[OWN] = {-1, -1, -1, -1};
/* Number of runs so far, including this one. */
static unsigned long long runs;
/* Jump target for a run that exits. */
static sigjmp_buf end_of_run;
/* Whether a signal can end the current run, and the signal that does. */
static volatile sig_atomic_t running, ending;
/* The options of a new shell. */
static char *first_options;
/* Bash's action for SIGCHLD. */
static struct sigaction on_child;

/* Data from the host: calls, one a line. */
static char *calls;
static size_t calls_held, calls_room;
/* The code of the run, and how much Bash has read. */
static char *code;
static size_t code_bytes, code_read;
/* The span that the run belongs to. */
static char *parent;
static size_t parent_bytes;

/* ---- The channel ---------------------------------------------------------------------------- */

static __attribute__((noreturn)) void give_up(const char *reason) {
    dprintf(STDERR_FILENO, "shell context: %s\n", reason);
    _exit(1);
}

static void say(const char *line) {
    size_t left = strlen(line);
    while (left > 0) {
        ssize_t sent = send(own[CHANNEL], line, left, MSG_NOSIGNAL);
        if (sent >= 0) {
            line += sent;
            left -= (size_t)sent;
        } else if (errno == EAGAIN) {
            struct pollfd room = {.fd = own[CHANNEL], .events = POLLOUT};
            poll(&room, 1, -1);
        } else if (errno != EINTR) {
            _exit(0);
        }
    }
}

static void say_of_run(const char *event, const char *more) {
    char line[128];
    snprintf(line, sizeof line, "{\"event\":\"%s\",\"execution_count\":%llu%s}\n", event, runs, more);
    say(line);
}

static void say_error(int status, int interrupted) {
    char line[128];
    if (interrupted)
        snprintf(line, sizeof line, "{\"event\":\"error\",\"name\":\"KeyboardInterrupt\","
                                    "\"value\":\"\",\"traceback\":\"interrupted\"}\n");
    else
        snprintf(line, sizeof line, "{\"event\":\"error\",\"name\":\"ExitCode\",\"value\":\"%d\","
                                    "\"traceback\":\"exit code %d\"}\n", status, status);
    say(line);
}

/* Reads from the host. The end of the channel ends the context. */
static void hear(void) {
    if (calls_held > CALL_BYTES_MAX)
        give_up("the host sent a call that is too long");
    if (calls_room - calls_held < PIECE_BYTES) {
        /* Doubled, so that a long call is not copied repeatedly. */
        calls_room = (calls_held + PIECE_BYTES) * 2;
        calls = realloc(calls, calls_room);
        if (calls == NULL)
            give_up("out of memory");
    }
    ssize_t got = read(own[CHANNEL], calls + calls_held, calls_room - calls_held - 1);
    if (got > 0) {
        calls_held += (size_t)got;
    } else if (got == 0) {
        _exit(0);
    } else if (errno == EAGAIN) {
        struct pollfd words = {.fd = own[CHANNEL], .events = POLLIN};
        poll(&words, 1, -1);
    } else if (errno != EINTR) {
        _exit(0);
    }
}

/* ---- JSON ----------------------------------------------------------------------------------- */

/* The rest of a JSON text. */
typedef struct {
    char *at, *end;
} json;

static __attribute__((noreturn)) void malformed(void) {
    give_up("the host sent an invalid call");
}

static int skip_to(json *text, char wanted) {
    while (text->at < text->end && strchr(" \t\r", *text->at) != NULL)
        text->at++;
    return text->at < text->end && *text->at == wanted;
}

static unsigned hex4(json *text) {
    unsigned value = 0;
    if (text->end - text->at < 4)
        malformed();
    for (int digit = 0; digit < 4; digit++) {
        char letter = *text->at++;
        unsigned bits;
        if (letter >= '0' && letter <= '9')
            bits = (unsigned)(letter - '0');
        else if ((letter | 0x20) >= 'a' && (letter | 0x20) <= 'f')
            bits = (unsigned)((letter | 0x20) - 'a') + 10;
        else
            malformed();
        value = value << 4 | bits;
    }
    return value;
}

/* Reads the character after `\u`; an unpaired surrogate is invalid. */
static unsigned escaped(json *text) {
    unsigned first = hex4(text);
    if (first < 0xd800 || first > 0xdfff)
        return first;
    if (first < 0xdc00 && text->end - text->at >= 6 && memcmp(text->at, "\\u", 2) == 0) {
        json ahead = {text->at + 2, text->end};
        unsigned second = hex4(&ahead);
        if (second >= 0xdc00 && second <= 0xdfff) {
            *text = ahead;
            return 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        }
    }
    return 0xfffd;
}

/* Writes a character as UTF-8, which is not longer than its escape. */
static char *put(char *to, unsigned character) {
    if (character < 0x80) {
        *to++ = (char)character;
        return to;
    }
    int more = character < 0x800 ? 1 : character < 0x10000 ? 2 : 3;
    static const unsigned char heads[] = {0, 0xc0, 0xe0, 0xf0};
    *to++ = (char)(heads[more] | character >> 6 * more);
    while (more-- > 0)
        *to++ = (char)(0x80 | (character >> 6 * more & 0x3f));
    return to;
}

/* Decodes a string in place. */
static char *string(json *text, size_t *bytes) {
    static const char letters[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    if (!skip_to(text, '"'))
        malformed();
    char *begin = ++text->at, *to = begin;
    for (;;) {
        if (text->at == text->end)
            malformed();
        char letter = *text->at++;
        if (letter == '"')
            break;
        if (letter != '\\') {
            *to++ = letter;
            continue;
        }
        if (text->at == text->end)
            malformed();
        letter = *text->at++;
        const char *known = letter == 0 ? NULL : strchr(letters, letter);
        if (letter == 'u')
            to = put(to, escaped(text));
        else if (known != NULL)
            *to++ = meant[known - letters];
        else
            malformed();
    }
    *bytes = (size_t)(to - begin);
    return begin;
}

/* Parses `line`; returns whether it is a run, and sets `code` and `parent`. */
static int is_run(char *line, size_t bytes) {
    json text = {line, line + bytes};
    int is_run = 0;
    code = NULL;
    parent_bytes = 0;
    if (!skip_to(&text, '{'))
        malformed();
    do {
        size_t name_bytes, value_bytes;
        text.at++;
        char *name = string(&text, &name_bytes);
        if (!skip_to(&text, ':'))
            malformed();
        text.at++;
        char *value = string(&text, &value_bytes);
        if (name_bytes == 4 && memcmp(name, "call", 4) == 0) {
            is_run = value_bytes == 3 && memcmp(value, "run", 3) == 0;
        } else if (name_bytes == 4 && memcmp(name, "code", 4) == 0) {
            code = value;
            code_bytes = value_bytes;
        } else if (name_bytes == 11 && memcmp(name, "traceparent", 11) == 0) {
            parent = value;
            parent_bytes = value_bytes;
        }
    } while (skip_to(&text, ','));
    if (!skip_to(&text, '}'))
        malformed();
    return is_run && code != NULL;
}

/* ---- Bash's input --------------------------------------------------------------------------- */

static int next_byte(void) {
    return code_read < code_bytes ? (unsigned char)code[code_read++] : EOF;
}

static int previous_byte(int byte) {
    if (code_read > 0)
        code_read--;
    return byte;
}

/* Makes `code` Bash's input, without a file or a descriptor. */
static void begin_input(void) {
    input_location nowhere = {0};
    /* Replaces the closing quote; a line needs a newline. */
    if (code_bytes > 0 && code[code_bytes - 1] != '\n')
        code[code_bytes++] = '\n';
    code_read = 0;
    while (stream_list != NULL)
        pop_stream();
    reset_parser();
    init_yy_io(next_byte, previous_byte, 0, dollar_vars[0], nowhere);
    EOF_Reached = 0;
    line_number = 0;
    indirection_level = 0;
}

/* ---- Signals -------------------------------------------------------------------------------- */

/* Signals that would end the shell, and end the run instead. */
static const int deadly[] = {SIGINT,  SIGHUP,  SIGTERM, SIGPIPE,   SIGALRM, SIGUSR1,
                             SIGUSR2, SIGXCPU, SIGXFSZ, SIGVTALRM, SIGPROF};
#define DEADLY (sizeof deadly / sizeof *deadly)
/* Actions that Bash has set for these signals. */
static struct sigaction wanted[DEADLY];
/* Actions at the start of the context. */
static struct sigaction first_actions[DEADLY];
/* Whether `on_signal` is set instead. */
static char replaced[DEADLY];

static int index_of(int signal) {
    for (size_t i = 0; i < DEADLY; i++)
        if (deadly[i] == signal)
            return (int)i;
    return -1;
}

static void on_signal(int signal) {
    int kept = errno;
    if (signal_is_trapped(signal)) {
        /* The handler of Bash while it waits for a child that may get the signal too. */
        void (*handler)(int) = wanted[index_of(signal)].sa_handler;
        if (handler != SIG_DFL)
            handler(signal);
    } else if (running) {
        ending = signal;
        sigint_sighandler(signal);
    }
    errno = kept;
}

static int is_deadly(int signal, const struct sigaction *action) {
    void (*handler)(int) = action->sa_handler;
    return handler == SIG_DFL || handler == termsig_sighandler ||
           (signal == SIGINT && handler != SIG_IGN && handler != trap_handler);
}

static void set_action(int i, const struct sigaction *action) {
    wanted[i] = *action;
    replaced[i] = (char)is_deadly(deadly[i], action);
    if (replaced[i]) {
        struct sigaction own = {.sa_handler = on_signal};
        libc.sigaction(deadly[i], &own, NULL);
    } else {
        libc.sigaction(deadly[i], action, NULL);
    }
}

__attribute__((visibility("default"))) int sigaction(int signal, const struct sigaction *action,
                                                     struct sigaction *before) {
    int i = at_home ? index_of(signal) : -1;
    if (i < 0)
        return libc.sigaction(signal, action, before);
    struct sigaction old = wanted[i];
    if (action != NULL)
        set_action(i, action);
    if (before != NULL)
        *before = old;
    return 0;
}

static void set_first_actions(void) {
    for (size_t i = 0; i < DEADLY; i++)
        set_action((int)i, &first_actions[i]);
}

/* ---- What Bash asks of the C library -------------------------------------------------------- */

/* Makes a forked process an ordinary child of a shell. */
static void leave_home(void) {
    static const struct sigaction first = {.sa_handler = SIG_DFL};
    at_home = 0;
    for (int i = 0; i < OWN; i++) {
        libc.close(own[i]);
        own[i] = -1;
    }
    for (size_t i = 0; i < DEADLY; i++)
        if (replaced[i])
            libc.sigaction(deadly[i], &first, NULL);
}

static int is_pending(int signal) {
    sigset_t waiting;
    return sigpending(&waiting) == 0 && sigismember(&waiting, signal) == 1;
}

__attribute__((visibility("default"))) pid_t fork(void) {
    pid_t child = libc.fork();
    if (child == 0 && at_home)
        leave_home();
    if (child > 0 && at_home) {
        int signal = interrupt_state ? ending : is_pending(SIGINT) ? SIGINT : 0;
        if (signal != 0)
            /* The signal arrived before this child existed, and the shell would wait for it. */
            kill(child, signal);
    }
    return child;
}

/* Duplicates `descriptor` to a number that the caller does not use. */
static int keep(int descriptor) {
    int kept = libc.fcntl(descriptor, F_DUPFD_CLOEXEC, OWN_FD);
    return kept >= 0 ? kept : libc.fcntl(descriptor, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
}

static int no_descriptor(void) {
    errno = EBADF;
    return -1;
}

/* Returns the index of `descriptor` among the hidden ones; negative if it is not hidden. */
static int own_of(int descriptor) {
    for (int i = 0; at_home && i < OWN; i++)
        if (own[i] == descriptor)
            return i;
    return -1;
}

__attribute__((visibility("default"))) int close(int descriptor) {
    return own_of(descriptor) >= 0 ? no_descriptor() : libc.close(descriptor);
}

__attribute__((visibility("default"))) int dup2(int from, int to) {
    if (own_of(from) >= 0)
        return no_descriptor();
    int taken = own_of(to);
    if (taken >= 0) {
        int elsewhere = keep(to);
        if (elsewhere < 0)
            return -1;
        own[taken] = elsewhere;
    }
    return libc.dup2(from, to);
}

__attribute__((visibility("default"))) int fcntl(int descriptor, int command, ...) {
    va_list more;
    va_start(more, command);
    void *argument = va_arg(more, void *);
    va_end(more);
    return own_of(descriptor) >= 0 ? no_descriptor() : libc.fcntl(descriptor, command, argument);
}

/* Waits until `child` has ended; returns its status as a shell does. */
static int status_of(pid_t child) {
    int status = 0;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return SIGNALLED - 1;
    return WIFSIGNALED(status) ? SIGNALLED + WTERMSIG(status) : WEXITSTATUS(status);
}

/* Implements the builtin `exec` of the shell: a child executes the program, and the run ends with
 * it. */
__attribute__((visibility("default"))) int execve(const char *path, char *const *words,
                                                  char *const *environment) {
    if (!at_home)
        return libc.execve(path, words, environment);
    int told[2], error = 0;
    sigset_t child_only, before;
    if (pipe2(told, O_CLOEXEC) < 0)
        return -1;
    sigemptyset(&child_only);
    sigaddset(&child_only, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child_only, &before);
    pid_t child = fork();
    if (child == 0) {
        sigprocmask(SIG_SETMASK, &before, NULL);
        libc.execve(path, words, environment);
        error = errno;
        /* A script without an interpreter line: Bash continues by reading it in this process. */
        if (error != ENOEXEC && write(told[1], &error, sizeof error) == sizeof error)
            _exit(SIGNALLED - 1);
        libc.close(told[0]);
        libc.close(told[1]);
        errno = error;
        return -1;
    }
    if (child < 0)
        error = errno;
    libc.close(told[1]);
    while (child > 0 && read(told[0], &error, sizeof error) < 0 && errno == EINTR)
        continue;
    libc.close(told[0]);
    int status = child > 0 ? status_of(child) : 0;
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (error != 0) {
        errno = error;
        return -1;
    }
    if (environment[0] != NULL)
        adjust_shell_level(1);
    /* The options are only turned off. */
    restore_traps();
    exit(status);
}

/* ---- A run ---------------------------------------------------------------------------------- */

/* Resets the state of the shell after it exited: its stack is gone, with the caller's functions,
 * loops and redirections. Bash does the same when it returns to its top level. */
static void unwind(void) {
    for (int level = parse_and_execute_level; level > 0 && parse_and_execute_level > 0; level--)
        parse_and_execute_cleanup(-1);
    /* Functions that `set -e` ended are already gone, which would print an error. */
    FILE *complaints = stderr;
    static FILE *nowhere;
    if (nowhere == NULL)
        nowhere = fopencookie(NULL, "w", (cookie_io_functions_t){0});
    if (nowhere != NULL)
        stderr = nowhere;
    run_unwind_protects();
    stderr = complaints;
    cleanup_the_pipeline();
    stop_making_children();
    parse_and_execute_level = running_trap = 0;
    loop_level = continuing = breaking = funcnest = sourcelevel = 0;
    executing_list = comsub_ignore_return = return_catch_flag = wait_intr_flag = 0;
    executing = 0;
    this_shell_function = NULL;
    dispose_used_env_vars();
    reset_local_contexts();
    unlink_fifo_list();
    restore_sigmask();
}

/* Resets the shell to its initial state, except for what the context keeps. */
static void begin_anew(void) {
    for (int trap = 0; trap < TRAPS; trap++) {
        run_trap_cleanup(trap);
        /* A trap for something other than a signal may be listed although it is off. */
        if (trap == TRAP_EXIT || trap >= _NSIG || signal_is_trapped(trap))
            restore_default_signal(trap);
    }
    clear_pending_traps();
    initialize_signals(1);
    libc.sigaction(SIGCHLD, &on_child, NULL);
    set_first_actions();
    for (int stream = 0; stream < OWN - STREAMS; stream++)
        libc.dup2(own[STREAMS + stream], stream);
    set_current_options(first_options);
    set_shellopts();
}

/* Runs the code; returns whether it was interrupted. */
static int run_code(int *status) {
    volatile int first_command = current_command_number;
    if (sigsetjmp(end_of_run, 0) == 0) {
        reader_loop();
        if (EOF_Reached == EXITING) {
            /* The EXIT trap may be interrupted too. */
            interrupt_state = 0;
            if (ending != 0)
                last_command_exit_value = SIGNALLED + ending;
            exit_shell(last_command_exit_value);
        }
        running = 0;
        /* Code without a command succeeds, and does not change `$?`. */
        *status = current_command_number == first_command ? 0 : last_command_exit_value;
        ending = 0;
    } else {
        running = 0;
        *status = last_command_exit_value;
        unwind();
        begin_anew();
        last_command_exit_value = *status;
    }
    interrupt_state = 0;
    if (read_but_dont_execute) {
        /* Otherwise no further run would work. */
        read_but_dont_execute = 0;
        set_shellopts();
    }
    fflush(stdout);
    fflush(stderr);
    clearerr(stdout);
    return ending == SIGINT;
}

/* Gives the run the variable `PARENT`, or takes that of the run before away. One that the caller
 * has set stays. Bash's own setenv(3) makes an exported variable of the shell. */
static void set_parent(void) {
    static char given[PARENT_BYTES];
    const char *found = get_string_value(PARENT);
    if (found != NULL && (given[0] == 0 || strcmp(found, given) != 0))
        return;
    if (parent_bytes > 0 && parent_bytes < PARENT_BYTES) {
        memcpy(given, parent, parent_bytes);
        given[parent_bytes] = 0;
        setenv(PARENT, given, 1);
    } else if (found != NULL) {
        given[0] = 0;
        unsetenv(PARENT);
    }
    array_needs_making = 1;
}

static void run(void) {
    int status, interrupted = 0;
    runs++;
    ending = 0;
    set_parent();
    running = 1;
    say_of_run("started", ",\"interrupted_by\":\"repeated_signals\"");
    if (memchr(code, 0, code_bytes) != NULL) {
        dprintf(STDERR_FILENO, "%s: the code has a NUL character in it\n", dollar_vars[0]);
        running = interrupt_state = 0;
        status = last_command_exit_value = STATUS_NO_CODE;
    } else {
        begin_input();
        interrupted = run_code(&status);
    }
    if (interrupted || status != 0)
        say_error(status, interrupted);
    say_of_run("done", "");
}

static __attribute__((noreturn)) void serve(void) {
    for (size_t looked = 0;;) {
        char *end = memchr(calls + looked, '\n', calls_held - looked);
        if (end == NULL) {
            looked = calls_held;
            hear();
            continue;
        }
        size_t bytes = (size_t)(end - calls);
        if (is_run(calls, bytes))
            run();
        calls_held -= bytes + 1;
        memmove(calls, end + 1, calls_held);
        looked = 0;
        if (calls_room > PIECE_BYTES * 4 && calls_held < PIECE_BYTES) {
            calls_room = PIECE_BYTES * 2;
            calls = realloc(calls, calls_room);
        }
    }
}

/* Called when Bash ends. The first time, it has read its empty input. */
__attribute__((visibility("default"), noreturn)) void exit(int status) {
    if (own[CHANNEL] < 0 || !shell_initialized)
        libc.exit(status);
    if (at_home) {
        last_command_exit_value = status & 0xff;
        siglongjmp(end_of_run, 1);
    }
    at_home = 1;
    default_buffered_input = -1;
    set_buffered_stream(STDIN_FILENO, NULL);
    libc.sigaction(SIGCHLD, NULL, &on_child);
    for (size_t i = 0; i < DEADLY; i++)
        libc.sigaction(deadly[i], NULL, &first_actions[i]);
    set_first_actions();
    first_options = get_current_options();
    say("{\"event\":\"ready\"}\n");
    hear();
    serve();
}

/* ---- The start ------------------------------------------------------------------------------ */

#define FIND(name) (libc.name = (__typeof__(libc.name))(uintptr_t)dlsym_of_old(RTLD_NEXT, #name))

/* Removes this library, the first in LD_PRELOAD, from the environment. */
static void hide(void) {
    static const char name[] = "LD_PRELOAD=";
    for (char **variable = environ; variable != NULL && *variable != NULL; variable++) {
        if (strncmp(*variable, name, strlen(name)) != 0)
            continue;
        char *rest = strchr(*variable, ':');
        if (rest != NULL)
            memmove(*variable + strlen(name), rest + 1, strlen(rest));
        /* Bash's own unsetenv(3) does not have these variables yet. */
        for (; rest == NULL && *variable != NULL; variable++)
            variable[0] = variable[1];
        return;
    }
}

__attribute__((constructor)) static void begin(int words, char **word) {
    FIND(exit), FIND(close), FIND(dup2), FIND(fcntl), FIND(fork), FIND(execve), FIND(sigaction);
    hide();
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (needed[i].address == NULL) {
            dprintf(STDERR_FILENO, "shell context: this Bash has no %s; use a Bash that exports "
                                   "its symbols, as Debian's does\n", needed[i].name);
            _exit(1);
        }
    own[CHANNEL] = keep(STDIN_FILENO);
    int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (own[CHANNEL] < 0 || nothing < 0 || libc.dup2(nothing, STDIN_FILENO) < 0)
        give_up("there is no descriptor for the channel");
    libc.close(nothing);
    for (int stream = 0; stream < OWN - STREAMS; stream++)
        own[STREAMS + stream] = keep(stream);
    /* The name in messages and `$0`, as if `bash` had been typed. */
    static char name[] = "bash";
    if (words > 0)
        word[0] = name;
}
