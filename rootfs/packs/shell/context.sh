# A context: a Bash that keeps its variables, functions and directory between runs.
#
#     {"call":"run","code":…} ─▶ started ─▶ (output)* ─▶ error? ─▶ done
#
# One line of JSON each, on descriptor 3. The start-up file of `bash --noprofile -i +m` with
# standard error on descriptor 4: an interactive shell goes back to its top level at SIGINT,
# whatever it was doing, and an error in an expansion does not end it. There PROMPT_COMMAND
# makes it go on here; of its own input, which is empty, it never runs anything.
#
# Quotes and dollars in single quotes are meant as they stand.
# shellcheck shell=bash disable=SC1003,SC2016

exec {__ctx_channel}<&3 3<&- 2>&4 4>&-
set +H +o history -E
unset HISTFILE
shopt -u checkwinsize
PS1='' PS2='' IGNOREEOF=1000000
__ctx_count=0 __ctx_last=0 __ctx_busy='' __ctx_exit='' __ctx_stderr=''

# Ends the run where a script would end; a subshell, as ever.
exit() {
    local status=${1-$?}
    [ "$BASHPID" = "$$" ] || builtin exit "$status"
    __ctx_exit=$((status & 255))
    # The shell marks an interrupt by an empty line, which this one is not worth.
    exec {__ctx_stderr}>&2 2>/dev/null
    kill -INT "$$"
}

__ctx_say() {
    printf '%s\n' "$1" >&"$__ctx_channel"
}

__ctx_fail() {
    __ctx_say '{"event":"error","name":"'"$1"'","value":"'"$2"'","traceback":"'"$3"'"}'
}

# Tells how a run ended: $1 is its exit code, if it came to its end.
__ctx_end() {
    # What this shell was forking as it was interrupted becomes the status of the next command,
    # whatever that is.
    :
    [ -n "$__ctx_busy" ] || return 0
    # Nothing of the run can be interrupted any more, once the command after this has begun: that
    # is where an interrupt just before it counts, and makes this begin anew.
    trap : INT
    :
    __ctx_busy=
    # It holds to the end of its run: else the next failure would end the shell.
    set +e
    if [ -n "$__ctx_stderr" ]; then
        exec 2>&"$__ctx_stderr" {__ctx_stderr}>&-
        __ctx_stderr=
    fi
    __ctx_last=${1:-${__ctx_exit:-130}}
    if [ -z "${1-}${__ctx_exit}" ]; then
        __ctx_fail KeyboardInterrupt '' 'interrupted'
    elif [ "$__ctx_last" != 0 ]; then
        __ctx_fail ExitCode "$__ctx_last" "exit code $__ctx_last"
    fi
    __ctx_say '{"event":"done","execution_count":'"$__ctx_count"'}'
}

# Waits for a call and makes its code `__ctx_code`.
__ctx_next() {
    # Until there is one, an interrupt is nobody's.
    trap : INT
    IFS= read -r -u "$__ctx_channel" __ctx_code || builtin exit 0
    __ctx_code=${__ctx_code#'{"call":"run","code":"'}
    __ctx_code=${__ctx_code%'"}'}
    # JSON escapes what printf unescapes, and quotes, and the backslash itself; no control
    # character stands as it is.
    __ctx_code=${__ctx_code//'\\'/$'\1'}
    __ctx_code=${__ctx_code//'\"'/'"'}
    case $__ctx_code in
    # It would end the text.
    *'\u0000'*) __ctx_code='echo "error: code for a shell cannot hold a NUL" >&2; __ctx_status 2' ;;
    *) printf -v __ctx_code %b "${__ctx_code//$'\1'/'\\'}" ;;
    esac
    __ctx_count=$((__ctx_count + 1)) __ctx_busy=1 __ctx_exit=
    # With `set -e` a failed command ends the run, not the context.
    trap 'case $- in *e*) exit "$?" ;; esac' ERR
    # A child that has just been forked does not hear of an interrupt, nor does this shell then.
    __ctx_say '{"event":"started","execution_count":'"$__ctx_count"',"interrupted_by":"repeated_signals"}'
    trap - INT
}

__ctx_status() {
    return "$1"
}

# Not a function, in which `declare` would make variables of its own; in one line, so that the
# code's lines have the numbers they should. The outer loop catches what a stray `break` of the
# code lets fall. It begins anew when a run was interrupted, or ended by `exit`.
__ctx_loop=$'\n''__ctx_end; while :; do while __ctx_next; do'
__ctx_loop+=' eval "__ctx_status $__ctx_last; $__ctx_code"; __ctx_end "$?"; done; __ctx_end 0; done'
readonly PROMPT_COMMAND=$__ctx_loop
__ctx_say '{"event":"ready"}'
