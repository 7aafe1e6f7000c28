"""A model, and the one thread that computes with it."""
import asyncio
from concurrent.futures import ThreadPoolExecutor

from common.apis import as_classifier, classify, pixel_batches
from common.attention_maps import attention_maps
from common.core.probabilities import THRESHOLD
from common.serving.answers import (
    AttentionMaps,
    Class,
    Limits,
    ModelInfo,
    Prediction,
    Refused,
)
from common.serving.pictures import (
    FORMATS,
    MAX_BODY,
    MAX_PIXELS,
    MAX_SIDE,
    read_picture,
    seen_box,
)

MAX_WAITING = 8   # pictures that wait for the model, or are with it
MAP_DECIMALS = 6  # of the numbers in a map


class Service:
    """Answers for pictures: classes, and attention maps.

    Args:
        model: Layer of init_model or create_model; or of load_exported: a graph, which has no
            attention to show.
    """

    def __init__(self, model):
        self.model = model
        self.classifier = as_classifier(model)
        self.preprocessing = self.classifier.preprocessing
        if self.classifier is model:
            self.name, self.heads = model.name, []
            self.num_classes = model.num_classes
        else:
            self.name, self.num_classes = model.config.MODEL.NAME, model.config.MODEL.NUM_CLASSES
            self.heads = [cell.attn.num_heads for cell in model.cells()]
        self.thread = ThreadPoolExecutor(1)
        self.turn = asyncio.Lock()
        self.waiting = 0

    def info(self):
        return ModelInfo(self.name, self.num_classes, self.classifier.class_names,
                         self.preprocessing.image_size, len(self.heads), self.heads,
                         Limits(MAX_BODY, MAX_PIXELS, MAX_SIDE),
                         self.preprocessing.exif_orientation, self.classifier.multi_label)

    async def run(self, request, function, upload, *args):
        """Calls function(bytes of the upload, *args) in the thread.

        Args:
            request: of FastAPI; when its client has gone, nothing is computed.
            function: self.predict or self.attention.
            upload: UploadFile of FastAPI.

        Raises:
            Refused: the upload is no picture, or too many are waiting.
        """
        content_type = upload.content_type or 'image/'
        if not content_type.startswith('image/') and content_type != 'application/octet-stream':
            raise Refused(415, f'picture: got another content type, expected one of '
                               f'{", ".join(FORMATS)}')
        if self.waiting >= MAX_WAITING:
            raise Refused(503, 'the model is busy: try again in a second')
        self.waiting += 1
        try:
            async with self.turn:
                if await request.is_disconnected():
                    raise Refused(400, 'the client has gone')
                return await asyncio.get_running_loop().run_in_executor(
                    self.thread, lambda: function(upload.file.read(), *args))
        finally:
            self.waiting -= 1

    def read(self, content):
        """The picture of a file's bytes, upright unless the model's config says otherwise."""
        return read_picture(content, self.preprocessing.exif_orientation)

    def predict(self, content, topk, threshold=THRESHOLD):
        """The Prediction for the bytes of a picture's file."""
        scores, error = next(classify(self.classifier, [self.read(content)]))
        if error:
            raise Refused(400, error)
        return Prediction([Class(**found)
                           for found in self.classifier.predicted(scores, topk, threshold)])

    def attention(self, content, layer, head):
        """The AttentionMaps for the bytes of a picture's file.

        Args:
            layer: index, negative from the end.
            head: a number as text, 'mean' or 'all'.
        """
        picture = self.read(content)
        pixels, errors = next(pixel_batches(self.preprocessing, [picture], batch_size=1))
        if errors[0]:
            raise Refused(400, errors[0])
        number = int(head) if head not in ('mean', 'all') else None
        maps = attention_maps(self.model, pixels, layer, number)               # [n, h, w]
        if head == 'mean':
            maps = maps.mean(axis=0, keepdims=True)                            # [1, h, w]
        return AttentionMaps(layer % len(self.heads), head,
                             maps.astype(float).round(MAP_DECIMALS).tolist(),
                             seen_box(self.preprocessing, *picture.size))
