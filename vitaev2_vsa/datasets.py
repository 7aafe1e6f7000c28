"""Data sets and loaders of ViTAEv2, VSA and Swin, under the names that PaddleViT users import.

They are the shared ones: image lists, training crops, evaluation crops.
"""
from common.datasets import get_dataset
from common.loader import get_dataloader

__all__ = ['get_dataset', 'get_dataloader']
