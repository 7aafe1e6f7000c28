"""Data: from files of images to the batches that a model trains on.

- Sources of images with labels (`sources.py`): lists (`lists.py`), class folders (`folders.py`),
  CIFAR (`cifar_source.py`), the digits (`digits_source.py`), a part of one of them (`subset.py`);
  the same in archives (`archives/`);
  files to pixels (`images.py`, `image_names.py`), other labels (`real_labels.py`), and the images
  that a user gives to a trained model (`input_images.py`).
- One image: `transforms.py`, `augment.py` with `augment_ops.py`, `erasing.py`.
- A data set and its order: `image_dataset.py`, `datasets.py` (which one a config asks for),
  `samplers.py`.
- Batches: `collate.py`, `mixup.py`, `loader.py`, `workers.py` (processes that work ahead),
  `batches.py` (tensors on the device), `tensor_loader.py` (PaddleViT's interface).
- What the commands do: `verify.py`, `write_lists.py`, `cifar_download.py`.

It may import `common.core`, `common.config`, `common.layers`, `common.weights` and `common.zoo`,
and nothing that trains, measures or serves. Numbers in here are drawn from
`common.core.randomness` only, so that a batch is a function of the seed, the epoch and its place
in the epoch.
"""
