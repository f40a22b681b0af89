"""The module library: one class a file, registered by name."""

from serket.modules import recognisers  # noqa: F401  # registers what black_box may call
from serket.modules.autoregressive import Autoregressive
from serket.modules.bag import Bag
from serket.modules.black_box import BlackBox
from serket.modules.classifier import Classifier
from serket.modules.count_vae import CountVAE
from serket.modules.dynamics import Dynamics
from serket.modules.flow import Flow
from serket.modules.flow_vae import FlowVAE
from serket.modules.frozen.callable import Callable
from serket.modules.frozen.onnx import Onnx
from serket.modules.frozen.ready import pictures, sentences, speech  # noqa: F401  # registers what callable may call
from serket.modules.frozen.sklearn import Sklearn
from serket.modules.frozen.timm import Timm
from serket.modules.frozen.torch import Torch
from serket.modules.frozen.transformers import Transformers
from serket.modules.gan import GAN
from serket.modules.gmm import GaussianMixture
from serket.modules.hmm import HiddenMarkov
from serket.modules.linear_gaussian import LinearGaussian
from serket.modules.markov import Markov
from serket.modules.mlda import MLDA
from serket.modules.multinomial_mixture import MultinomialMixture
from serket.modules.pool import Broadcast, Pool
from serket.modules.recogniser import Recogniser
from serket.modules.table import Table
from serket.modules.vae import VAE

__all__ = [
    "GAN",
    "MLDA",
    "VAE",
    "Autoregressive",
    "Bag",
    "BlackBox",
    "Broadcast",
    "Callable",
    "Classifier",
    "CountVAE",
    "Dynamics",
    "Flow",
    "FlowVAE",
    "GaussianMixture",
    "HiddenMarkov",
    "LinearGaussian",
    "Markov",
    "MultinomialMixture",
    "Onnx",
    "Pool",
    "Recogniser",
    "Sklearn",
    "Table",
    "Timm",
    "Torch",
    "Transformers",
]
