"""The demo: a server, a toy training job and ``tracksync watch`` on one machine. Needs the full mlflow package."""
