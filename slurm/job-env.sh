# shellcheck shell=sh
# Prepares a Slurm job for MLflow without a server. Nothing has to be installed. In a job script:
#
#     . /path/to/job-env.sh
#
# It sets, for all that the job starts from then on:
#   MLFLOW_TRACKING_URI      where runs are logged, unless it is set already: the folder mlruns in the directory from
#                            which the job was submitted. Set TRACKSYNC_STORE to a directory to choose another; it has
#                            to be one that the node where `tracksync watch` or `push` runs sees too.
#   MLFLOW_ALLOW_FILE_STORE  MLflow 3.13 and later log to files only when told so.
#   MLFLOW_RUN_CONTEXT       tags for every run: slurm.job_id, slurm.array_job_id, slurm.array_task_id, slurm.cluster,
#                            slurm.nodelist, slurm.job_name, slurm.restart_count, slurm.host. By these `tracksync`
#                            finds the runs of a job. One that you have set yourself stays as it is.
#
# For dash, bash, ksh and zsh; safe under `set -eu`; leaves nothing else behind. If you have tracksync installed in
# the environment in which you train, you get the tags without this file.

# The value of a JSON string: a job may be called anything.
_tracksync_json() (
    LC_ALL=C
    export LC_ALL
    out=
    rest=$(printf '%.2000sx' "$1") # MLflow refuses to start a run with a longer tag
    rest=${rest%x}
    case $rest in
    # JSON is UTF-8, names need not be: what is no UTF-8 is left out.
    *[!\ -~]*)
        rest=$(
            printf '%s' "$rest" | iconv -c -f UTF-8 -t UTF-8 2>/dev/null
            printf x
        )
        rest=${rest%x}
        ;;
    esac
    while :; do
        plain=${rest%%[\"\\[:cntrl:]]*}
        out=$out$plain
        rest=${rest#"$plain"}
        [ -n "$rest" ] || break
        tail=${rest#?}
        char=${rest%"$tail"}
        rest=$tail
        case $char in
        \" | \\) out=$out\\$char ;;
        *) out=$out$(printf '\\u%04x' "'$char") ;;
        esac
    done
    printf '%s' "$out"
)

# One tag, with a comma before it; none where there is no value.
_tracksync_tag() {
    if [ -n "$2" ]; then
        printf ',"%s":"%s"' "$1" "$(_tracksync_json "$2")"
    fi
}

export MLFLOW_ALLOW_FILE_STORE=true
if [ -z "${MLFLOW_TRACKING_URI-}" ]; then
    MLFLOW_TRACKING_URI=${TRACKSYNC_STORE:-${SLURM_SUBMIT_DIR:-$PWD}/mlruns}
    export MLFLOW_TRACKING_URI
fi

# A job that is submitted from within another one inherits its tags: they are replaced.
case ${MLFLOW_RUN_CONTEXT-} in
"" | *'"slurm.job_id"'*)
    if [ -n "${SLURM_JOB_ID-}" ]; then
        MLFLOW_RUN_CONTEXT={\"slurm.job_id\":\"$SLURM_JOB_ID\"$(
            _tracksync_tag slurm.array_job_id "${SLURM_ARRAY_JOB_ID-}"
            _tracksync_tag slurm.array_task_id "${SLURM_ARRAY_TASK_ID-}"
            _tracksync_tag slurm.cluster "${SLURM_CLUSTER_NAME-}"
            _tracksync_tag slurm.nodelist "${SLURM_JOB_NODELIST-}"
            _tracksync_tag slurm.job_name "${SLURM_JOB_NAME-}"
            _tracksync_tag slurm.restart_count "${SLURM_RESTART_COUNT:-0}"
            _tracksync_tag slurm.host "${SLURMD_NODENAME:-$(uname -n)}"
        )}
        export MLFLOW_RUN_CONTEXT
    fi
    ;;
esac
unset -f _tracksync_json _tracksync_tag
