"""An image network of timm from a local folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from serket.errors import GraphError
from serket.modules.frozen.files import hashed, needed, part
from serket.modules.frozen.reading import Frozen
from serket.modules.frozen.weights import filled, tensors_of
from serket.registry import register

__all__ = ["Timm"]


@register("timm")
@dataclass(kw_only=True, eq=False, repr=False)
class Timm(Frozen):
    """A folder of config.json and model.safetensors, as timm publishes its models; the features below the classifier.

    Rows are images ``(H, W, 3)``, ``uint8`` or floats from 0 to 1; they are resized and normalised as config.json says.
    timm needs torchvision, of the version that belongs to the torch installed.

    Args:
        folder: a path, or ``package:NAME/path``.

    Options of every frozen encoder as in :class:`Frozen`.
    """

    paths: ClassVar[tuple[str, ...]] = ("folder",)
    folder: str

    def prepare(self) -> None:
        """Find the folder's files and the package."""
        self._files = part(self.folder, ("config.json", "model.safetensors"), self.largest_mb)
        self._network: Any = None

    def _opened(self) -> Any:
        if self._network is None:
            library = needed("timm", "timm")
            try:
                config = json.loads(self._files[0].read_text(encoding="utf-8"))
                name, own = config["architecture"], config.get("pretrained_cfg", config)
                self._shape = tuple(own.get("input_size", (3, 224, 224)))[1:]
                self._mean, self._std = (torch.tensor(own[part]).view(3, 1, 1) for part in ("mean", "std"))
                options = dict(config.get("model_args", {}))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise GraphError(
                    "config.json is none of timm's",
                    where=self.folder,
                    found=f"{type(error).__name__}: {error}",
                    fix="it names architecture, and pretrained_cfg with mean and std",
                ) from None
            try:
                with torch.random.fork_rng(devices=[]):
                    classes = int(config.get("num_classes", 1000))
                    network = library.create_model(name, pretrained=False, num_classes=classes, **options)
            except (RuntimeError, TypeError) as error:
                raise GraphError("timm cannot make the network", where=self.folder, found=str(error)) from None
            self._network = filled(network, tensors_of(self._files[1]), self.folder)
            self._network.reset_classifier(0)  # a layer that passes on what it gets
        return self._network

    def encode(self, values: Tensor) -> Any:
        """Resize and normalise a batch of images, and run it."""
        network = self._opened().to(values.device)
        images = (values.float() / 255 if values.dtype == torch.uint8 else values.float()).movedim(-1, 1)
        if tuple(images.shape[-2:]) != self._shape:
            images = torch.nn.functional.interpolate(images, self._shape, mode="bicubic", antialias=True).clamp(0, 1)
        return network((images - self._mean.to(images)) / self._std.to(images))

    def fingerprint(self) -> str:
        """Hash config and weights."""
        return hashed("timm", self._files)

    def place(self) -> str:
        """Tell which folder."""
        return self.folder
