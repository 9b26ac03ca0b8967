"""The audit: compares what some runs hold at their source with what the server holds, and sends what it lacks."""
