"""The features of a data set's images, by the evaluation's loader and preprocessing."""
import numpy as np
import paddle
from tqdm import tqdm

from common.core.errors import InputError
from common.core.parts import in_parts
from common.data.batches import Batches, build_normalize
from common.data.loader import build_loader


@paddle.no_grad()
def features_of(model, dataset, config, kind):
    """The features of all images of a data set.

    Args:
        model: ImageClassifier; it is put into evaluation mode.
        dataset: ImageDataset.
        config: of the model, with the data set's batch size and loader processes.
        kind: cls_token or avg_featmap, of the last stage; see `model.extract_feat`.

    Returns:
        float32 [N, C], in the order of the data set.

    Raises:
        InputError: an image cannot be read, or has features that are not finite.
    """
    model.eval()
    batches = Batches(build_loader(config, dataset, is_train=False), build_normalize(config))
    found = None
    with tqdm(total=len(dataset), unit='img', disable=None, leave=False) as bar:
        for images, _ in batches:
            values = in_parts(model, lambda part: model.extract_feat(part, kind)[-1], images)
            values = values.astype('float32').numpy()                          # [B, C]
            if found is None:
                found = np.empty([len(dataset), values.shape[1]], np.float32)
            found[batches.indices] = values
            bar.update(len(values))
    broken = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(broken):
        raise InputError(f'{dataset.images.where(broken[0])}: got features that are not finite; '
                         f'{len(broken)} of {len(found)} images have such ones')
    return found
