#!/bin/bash
# Sends the runs of a store to the MLflow server, as a job of its own on a partition whose nodes have a network (often
# called transfer, serial, datamover). Needs no rights and no daemon: Slurm starts it when the training has ended, well or
# not, once all its nodes are done with it. It may run as often as you like: what the server has is not sent again.
#
#     job=$(sbatch --parsable job.sh)
#     sbatch --dependency=afterany:$job push-job.sh /scratch/me/mlruns
#
# Which server: TRACKSYNC_TO, or `to` in ~/.config/tracksync/config.toml.

#SBATCH --job-name=tracksync-push
#SBATCH --partition=transfer
#SBATCH --ntasks=1
#SBATCH --time=04:00:00

TRACKSYNC=${TRACKSYNC:-tracksync}
STORE=${1:-${TRACKSYNC_STORE:-$SLURM_SUBMIT_DIR/mlruns}}

# What the training job set for itself is not for us: it names the offline store.
unset MLFLOW_TRACKING_URI
# A server that is down is waited for. Exit codes: 0 all delivered, 5 some runs are held (see `tracksync status`),
# 75 the server did not answer: submit again.
exec "$TRACKSYNC" push --server-wait "${SERVER_WAIT:-30m}" "$STORE"
