"""How messages become a shared latent."""

from serket.composer.clusters.composer import Clusters
from serket.composer.coordinated.composer import Coordinated
from serket.composer.joint.composer import JointComposer
from serket.composer.kernel.composer import KernelComposer
from serket.composer.linear_gaussian import LinearGaussianComposer
from serket.composer.mixture_of_experts import MixtureOfExperts
from serket.composer.mixture_of_products import MixtureOfProducts
from serket.composer.naming_game.composer import NamingGame
from serket.composer.product import Product
from serket.composer.relative.anchors import retrieve, vote
from serket.composer.relative.composer import Relative
from serket.composer.workspace.composer import Workspace

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
