"""Views meet in what their readings are similar to."""
