"""An image network of timm from a local folder."""

from __future__ import annotations

import json
import re
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

# Shapes and switches of an architecture. All else stays out: timm reads files and fetches by its other arguments.
ARGUMENTS = frozenset(
    "act_layer attn_drop_rate base_width cardinality class_token depth depths depth_multiplier dims "
    "drop_path_rate drop_rate dynamic_img_pad dynamic_img_size embed_dim fc_norm final_norm fix_stem global_pool "
    "head_hidden_size img_size in_chans init_values kernel_sizes layers mlp_ratio no_embed_class norm_layer num_heads "
    "output_stride patch_size pos_embed pre_norm proj_bias proj_drop_rate qk_norm qkv_bias reg_tokens stem_chs "
    "stem_type stem_width use_fc_norm width_multiplier window_size".split()
)


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
                options = dict(config.get("model_args") or {})
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise GraphError(
                    "config.json is none of timm's",
                    where=self.folder,
                    found=f"{type(error).__name__}: {error}",
                    fix="it names architecture, and pretrained_cfg with mean and std",
                ) from None
            self._check(name, options)
            try:
                with torch.random.fork_rng(devices=[]):
                    classes = int(config.get("num_classes", 1000))
                    network = library.create_model(name, pretrained=False, num_classes=classes, **options)
            except (RuntimeError, TypeError) as error:
                raise GraphError("timm cannot make the network", where=self.folder, found=str(error)) from None
            self._network = filled(network, tensors_of(self._files[1]), self.folder)
            self._network.reset_classifier(0)  # a layer that passes on what it gets
        return self._network

    def _check(self, name: Any, options: dict[str, Any]) -> None:
        """Refuse what would have timm read another file, a pickle among them, or fetch one."""
        if not isinstance(name, str) or not re.fullmatch(r"[\w.]+", name):
            raise GraphError(
                "config.json names no architecture of timm",
                where=f"{self.folder}, architecture",
                expected="a name of letters, digits, _ and .",
                found=repr(name)[:100],
                fix="name the architecture alone; the weights are this folder's",
            )
        for key, value in options.items():
            flat = value if isinstance(value, list) else [value]
            if key not in ARGUMENTS or not all(
                one is None or isinstance(one, bool | int | float | str) for one in flat
            ):
                raise GraphError(
                    "config.json gives timm an argument that is not accepted",
                    where=f"{self.folder}, model_args",
                    expected="shapes and switches of the architecture: numbers, strings, and lists of them",
                    found=f"{key}: {value!r}"[:100],
                    fix=f"remove {key} from model_args, or register the network: @serket.encoder(name)",
                )

    def encode(self, values: Tensor) -> Any:
        """Resize and normalise a batch of images, and run it."""
        network = self._opened().to(values.device)
        images = (values.float() / 255 if values.dtype == torch.uint8 else values.float()).movedim(-1, 1)
        if tuple(images.shape[-2:]) != self._shape:
            images = torch.nn.functional.interpolate(images, self._shape, mode="bicubic", antialias=True).clamp(0, 1)
        return network((images - self._mean.to(images)) / self._std.to(images))

    def identity(self) -> str:
        """Hash config and weights."""
        return hashed("timm", self._files)

    def place(self) -> str:
        """Tell which folder."""
        return self.folder
