"""How messages become a shared latent."""

from serket.composer.linear_gaussian import LinearGaussianComposer
from serket.composer.naming_game import NamingGame
from serket.composer.product import Product

__all__ = ["LinearGaussianComposer", "NamingGame", "Product"]
