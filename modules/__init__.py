"""The module library: one class a file, registered by name."""

from serket.modules.classifier import Classifier
from serket.modules.gmm import GaussianMixture
from serket.modules.linear_gaussian import LinearGaussian
from serket.modules.multinomial_mixture import MultinomialMixture
from serket.modules.table import Table
from serket.modules.vae import VAE

__all__ = ["VAE", "Classifier", "GaussianMixture", "LinearGaussian", "MultinomialMixture", "Table"]
