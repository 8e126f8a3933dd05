"""Pictures: from the bytes of a PNG, JPEG or WebP to the numbers a network reads. The one door to Pillow.

How big, cut out, scaled and shifted a picture is read stands in the model's ``preprocessor_config.json``; what comes out equals what
transformers' own image processors make of it (``tests/data/test_pictures.py``).

H height, W width.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import DataError, MissingPart, ModelError

MOST_PIXELS = 50_000_000
"""A picture may have so many: a photograph of the best cameras; more is a mistake or an attack (a small file can say it has billions)."""

FORMATS = ("PNG", "JPEG", "WEBP")
"""What is read; other decoders of the library are never reached."""

HALVES = [0.5, 0.5, 0.5]
DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": {"size": {"height": 224, "width": 224}, "resample": 2, "image_mean": HALVES, "image_std": HALVES},
    "DeiT": {
        "size": {"height": 256, "width": 256},
        "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True,
        "resample": 3,
        "image_mean": HALVES,
        "image_std": HALVES,
    },
    "CLIP": {
        "size": {"shortest_edge": 224},
        "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True,
        "resample": 3,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    },
    "Siglip": {"size": {"height": 224, "width": 224}, "resample": 3, "image_mean": HALVES, "image_std": HALVES},
}
"""What a processor does where its file does not say: transformers' values, by the beginning of its name."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How pictures are read.

    Attributes:
        height, width: the size asked for; width 0 makes the shorter edge `height` and keeps the shape. resample: the filter, as Pillow
            numbers them.
        crop: height and width that are cut out of the middle, or None. factor: multiplies bytes. mean, std: per colour, or None.
    """

    height: int
    width: int
    resample: int
    crop: tuple[int, int] | None
    factor: float
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what comes out."""
        return self.crop or (self.height, self.width)


def plan_of(content: dict[str, Any], *, where: str = "") -> Plan:
    """Read a ``preprocessor_config.json``.

    Raises:
        ModelError: it names a processor that is not computed, or one whose pictures come out in several sizes.
    """
    name = str(content.get("image_processor_type") or content.get("feature_extractor_type") or "")
    known = next((DEFAULTS[kind] for kind in DEFAULTS if name.startswith(kind)), None)
    if known is None:
        raise _unknown(f"it names {name or 'no processor'}", where)
    said = known | {key: value for key, value in content.items() if value is not None}
    size, crop = said["size"], said.get("crop_size")
    size = {"height": size, "width": size} if isinstance(size, int) else size
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    cuts = bool(said.get("do_center_crop")) and crop is not None
    if not said.get("do_resize", True) or not ("height" in size or (set(size) == {"shortest_edge"} and cuts)):
        raise _unknown(f"its pictures come out in several sizes (size = {size})", where)
    return Plan(
        height=int(size["height"] if "height" in size else size["shortest_edge"]),
        width=int(size.get("width", 0)),
        resample=int(said["resample"]),
        crop=(int(crop["height"]), int(crop["width"])) if cuts and crop is not None else None,
        factor=float(said.get("rescale_factor", 1 / 255)) if said.get("do_rescale", True) else 1.0,
        mean=tuple(said["image_mean"]) if said.get("do_normalize", True) else None,
        std=tuple(said["image_std"]) if said.get("do_normalize", True) else None,
    )


def look(content: bytes) -> tuple[int, int]:
    """Width and height of a picture that decodes to its end.

    Raises:
        DataError: it does not, or is larger than `MOST_PIXELS`; without a place. MissingPart: Pillow is not installed.
    """
    width, height = _opened(content).size
    return int(width), int(height)


def pixels(content: bytes, plan: Plan) -> NDArray[np.float32]:
    """A picture as a network reads it: float32 ``[3, H, W]``. Raises as `look`."""
    image = _opened(content).convert("RGB")
    width, height = image.size
    if plan.width:
        wanted = (plan.width, plan.height)
    else:
        short = plan.height
        wanted = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    found = np.asarray(image.resize(wanted, resample=plan.resample), np.float64)
    if plan.crop:
        found = _middle(found, *plan.crop)
    found = found * plan.factor
    if plan.mean is not None and plan.std is not None:
        found = (found - np.array(plan.mean)) / np.array(plan.std)
    return np.ascontiguousarray(found.transpose(2, 0, 1), np.float32)


def _middle(image_HWC: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """The middle of a picture; where it is too small, with black around it."""
    for axis, wanted in ((0, height), (1, width)):
        have = image_HWC.shape[axis]
        if have < wanted:
            before = -(-(wanted - have) // 2)
            pads = [(0, 0)] * 3
            pads[axis] = (before, wanted - have - before)
            image_HWC = np.pad(image_HWC, pads)
        else:
            image_HWC = image_HWC.take(range((have - wanted) // 2, (have - wanted) // 2 + wanted), axis)
    return image_HWC


def _opened(content: bytes) -> Any:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingPart("Rows with pictures need Pillow, which is not installed.", remedy="pip install 'luthier[images]'") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is lower
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        if image.width * image.height > MOST_PIXELS:
            what = f"The picture has {image.width:,} x {image.height:,} points; {MOST_PIXELS:,} are the most that is read."
            raise DataError(what, remedy="Scale it down.", code="bad_picture")
        image.load()
    except UnidentifiedImageError as error:
        raise DataError("This is no PNG, JPEG or WebP picture.", remedy="Convert it, or correct the path.", code="bad_picture") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # of broken files
        raise DataError(
            f"The picture does not decode: {error}.", remedy="Save it again, or leave the row out.", code="bad_picture"
        ) from error
    return image


def _unknown(reason: str, where: str) -> ModelError:
    known = ", ".join(DEFAULTS)
    return ModelError(
        f"preprocessor_config.json cannot be followed: {reason}.",
        where=where,
        remedy=f"Processors that are computed: {known}, with one size for all pictures.",
        code="preprocessor",
    )
