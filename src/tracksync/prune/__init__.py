"""Prune: removes local runs of which one and the same call has proven that the server holds all."""
