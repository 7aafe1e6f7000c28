"""An exported graph as a Classifier: what the runtimes share."""
import numpy as np

from common.apis import Classifier
from common.core.cores import core_count
from common.core.errors import InputError
from common.deploy.folder import checked_file, graph_files, read_metadata


class Exported(Classifier):
    """A folder's graph behind uint8 pixels; the base of the runtimes.

    Attributes:
        name: of the model, as in common.zoo.
        num_classes: K.
        files: paths of the graph and, if they are in a file of their own, the parameters.
        threads: CPU cores.
    """

    format = None  # that a runtime reads

    def __init__(self, folder, threads=None):
        metadata = read_metadata(folder)
        if metadata['format'] != self.format:
            raise InputError(f'{folder}: got an export to {metadata["format"]}, expected one to '
                             f'{self.format}')
        self.files = [checked_file(folder, name, metadata['files'])
                      for name in graph_files(folder, self.format)]
        super().__init__(metadata['preprocessing'], metadata['class_names'],
                         metadata['multi_label'])
        self.name, self.num_classes = str(metadata.get('model')), metadata['num_classes']
        self.threads = core_count() if threads is None else threads
        if self.threads < 1:
            raise InputError(f'threads: got {self.threads}, expected at least 1')
        mean, std = (np.array(value).reshape(3, 1, 1) * 255
                     for value in (self.preprocessing.mean, self.preprocessing.std))
        # (x - mean) / std as one product and one sum
        self.scale, self.shift = (1 / std).astype(np.float32), (-mean / std).astype(np.float32)

    def __call__(self, pixels):
        height, width = self.preprocessing.image_size
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (3, height, width):
            raise InputError(f'pixels: got {pixels.dtype}{list(pixels.shape)}, expected uint8[B, '
                             f'3, {height}, {width}], for which the model was exported')
        logits = self.run(self.normalised(pixels))
        if logits.shape != (len(pixels), self.num_classes):  # a runtime's own mistake
            raise InputError(f'{self.files[0]}: {type(self).__name__} gives logits '
                             f'{list(logits.shape)} for {len(pixels)} images, expected '
                             f'[{len(pixels)}, {self.num_classes}]; use another runtime')
        return logits

    def normalised(self, pixels):
        """uint8 [B, 3, H, W] -> what the graph takes, float32 [B, 3, H, W]"""
        images = pixels * self.scale
        images += self.shift
        return images

    def run(self, images):
        """float32 [B, 3, H, W], normalised -> logits, float32 [B, K]"""
        raise NotImplementedError
