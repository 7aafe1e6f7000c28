"""What the API answers. FastAPI describes the API from these classes, see /openapi.json."""
from dataclasses import dataclass


class Refused(Exception):
    """An answer other than 200: its status and one line."""

    def __init__(self, status, detail):
        super().__init__(detail)
        self.status = status


@dataclass
class Class:
    label: int
    name: str
    score: float   # probability


@dataclass
class Prediction:
    classes: list[Class]  # most probable first; of a multi-label model there may be none


@dataclass
class AttentionMaps:
    layer: int
    head: str
    maps: list[list[list[float]]]  # [1 or heads, h, w]; fractions of the attention
    box: list[float]               # the part of the picture that a map lies over, see seen_box


@dataclass
class Limits:
    bytes: int
    pixels: int
    side: int


@dataclass
class ModelInfo:
    name: str
    classes: int
    class_names: list[str] | None
    image_size: list[int]  # height, width
    layers: int            # with attention
    heads: list[int]       # of each layer
    limits: Limits         # of a picture
    upright: bool          # whether pictures are turned as their EXIF says
    multi_label: bool      # whether a picture may have several classes, or none
