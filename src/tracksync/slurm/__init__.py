"""What tracksync knows of Slurm: the tags of a job's runs, and what became of the job."""
