"""mlflow-export-import, in processes of its own: ``exported.py export|import EXPERIMENT DIRECTORY``.

Exports one experiment of the store that MLFLOW_TRACKING_URI names, or imports it there; prints the seconds, the
start-up left out.
"""

import contextlib
import sys
import time

import mlflow
from mlflow_export_import.experiment.export_experiment import ExperimentExporter
from mlflow_export_import.experiment.import_experiment import ExperimentImporter


def main(what, experiment, directory):
    client = mlflow.MlflowClient()
    began = time.monotonic()
    with contextlib.redirect_stdout(sys.stderr):
        if what == "export":
            ExperimentExporter(client).export_experiment(experiment, directory)
        else:
            ExperimentImporter(client).import_experiment(f"{experiment}, imported", directory)
    print(time.monotonic() - began)


if __name__ == "__main__":
    main(*sys.argv[1:])
