"""How messages become a shared latent."""

from serket.composer.clusters import Clusters
from serket.composer.linear_gaussian import LinearGaussianComposer
from serket.composer.naming_game import NamingGame
from serket.composer.product import Product

__all__ = ["Clusters", "LinearGaussianComposer", "NamingGame", "Product"]
