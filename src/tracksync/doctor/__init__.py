"""What ``tracksync doctor`` looks at. Nothing is changed: no store, no server, no setting."""
