"""The MLflow server as a destination, spoken to through MLflow's own credential, TLS and plug-in layer.

Importing this package does not import mlflow (1.5 s, 170 MB): the first request does.
"""

from tracksync.mlflow_server.server import MlflowServer

__all__ = ["MlflowServer"]
