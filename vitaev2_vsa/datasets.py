"""Data sets and loaders of ViTAEv2, VSA and Swin, under the names that PaddleViT users import.

They are the shared ones: image lists, training crops, evaluation crops.
"""
from common.data.datasets import get_dataset
from common.data.loader import get_dataloader

__all__ = ['get_dataset', 'get_dataloader']
