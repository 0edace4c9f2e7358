"""Exporting: from a pruned model to files that run without prunekit, each proved to be the same."""
