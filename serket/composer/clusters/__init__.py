"""One discrete concept behind latents, counts and categories."""
