"""How messages become a shared latent."""
