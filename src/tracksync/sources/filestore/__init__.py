"""MLflow's file store (``mlruns``): directories of runs, one small file per param, tag and metric.

Nothing is imported here: ``tracksync stage`` runs in every job, and needs little of what the source does.
"""
