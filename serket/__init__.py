"""Serket: modules trained apart, connected by messages into one probabilistic model."""
