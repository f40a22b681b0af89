"""Agents that share names, and nothing else."""
