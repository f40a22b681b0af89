"""Gaussian processes from every latent to every other, and into a shared one."""
