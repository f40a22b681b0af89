"""How messages become a shared latent."""

from serket.composer.anchors import retrieve, vote
from serket.composer.clusters import Clusters
from serket.composer.coordinated import Coordinated
from serket.composer.joint import JointComposer
from serket.composer.kernel import KernelComposer
from serket.composer.linear_gaussian import LinearGaussianComposer
from serket.composer.mixture_of_experts import MixtureOfExperts
from serket.composer.mixture_of_products import MixtureOfProducts
from serket.composer.naming_game import NamingGame
from serket.composer.product import Product
from serket.composer.relative import Relative
from serket.composer.workspace import Workspace

__all__ = [
    "Clusters",
    "Coordinated",
    "JointComposer",
    "KernelComposer",
    "LinearGaussianComposer",
    "MixtureOfExperts",
    "MixtureOfProducts",
    "NamingGame",
    "Product",
    "Workspace",
    "Relative",
    "retrieve",
    "vote",
]
