"""How messages become a shared latent."""

from serket.composer.linear_gaussian import LinearGaussianComposer
from serket.composer.product import Product

__all__ = ["LinearGaussianComposer", "Product"]
