"""Rows, checkpoints, files, processes and workspaces held against each other, and put right."""
