"""Data sets and loaders of ViT, with the names, arguments and results of PaddleViT's.

get_dataset(config, is_train) gives (image float32 [3, H, W], label) by an index, and
get_dataloader(config, dataset, is_train) batches of two tensors. They are the shared ones.
"""
from common.data.datasets import get_dataset
from common.data.tensor_loader import get_dataloader

__all__ = ['get_dataset', 'get_dataloader']
