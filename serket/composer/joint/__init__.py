"""A small VAE over the latents of other modules."""
