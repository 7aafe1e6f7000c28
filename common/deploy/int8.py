"""An export to onnx with products and convolutions in int8: post-training quantisation.

ONNX Runtime's tools write the graph: it keeps its float32 operators, and around each product of
matrices and convolution stand pairs of QuantizeLinear and DequantizeLinear, which ONNX Runtime and
OpenVINO turn into int8 kernels. Weights are int8 with a scale for each output channel, activations
uint8 with a scale for each tensor, from the least and largest value on the calibration images.
Products give float32, so softmax, LayerNorm and GELU get and give it; a convolution gives uint8,
without which ONNX Runtime has no int8 kernel for it.

Which nodes stay float32, too, is measured: each is quantised alone, and its error on the logits is
compared with its multiply-adds (`choose`).
"""
import contextlib
import importlib.util
import logging
import os
from typing import NamedTuple

import numpy as np

from common.core.errors import InputError

OPERATORS = ('MatMul', 'Gemm', 'Conv')
NEEDED = ('onnxruntime', 'ml_dtypes')  # ONNX Runtime's tools ask for the latter, its package not
# (share of all multiply-adds that may stay in float32, error of the logits relative to their
# deviation that is small enough to stop before): the next pair where the one before is not good
# enough.
LIMITS = ((0.02, 0.01), (0.1, 0.0), (0.3, 0.0))
PROBES = 8       # images on which each node is measured, at least; not calibrated with
LOG_ERRORS = 3   # a level of ONNX Runtime's log
HALF = True      # weights of 7 bits: see quantise


class Node(NamedTuple):
    """A product of matrices or convolution.

    Attributes:
        name: in the graph.
        macs: multiply-adds for one image.
        error: of the logits when it alone is quantised: root mean square over their deviation.
    """

    name: str
    macs: float
    error: float


def check_int8():
    """Raises InputError if the packages are missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"int8: got no {', '.join(missing)}, expected it: pip install "
                         f"'paddle-vitae[export]'")


class Quantizer:
    """Makes int8 graphs of a float32 one.

    Args:
        file: ONNX file.
        images: float32 [N, 3, H, W], normalised, to calibrate with.
        work: folder for temporary files.
        threads: CPU cores.
    """

    def __init__(self, file, images, work, threads):
        import onnx

        self.work, self.threads = work, threads
        self.model = with_initializers(onnx.load(file))
        self.source = os.path.join(work, 'float.onnx')
        onnx.save(self.model, self.source)
        # Sensitivity shows on images that the ranges do not know.
        apart = np.zeros(len(images), bool)
        if len(images) >= 4 * PROBES:
            apart[::len(images) // PROBES] = True
        self.images, self.probes = images[~apart], images[apart]
        if not len(self.probes):
            self.probes = images[:PROBES]
        self.ranges = self.calibrate()
        self.expected = self.logits(self.source, self.probes)

    def candidates(self):
        """{name of a node that may be int8: its multiply-adds for one image}"""
        return macs_of(self.model, self.images[:1], self.session)

    def session(self, model):
        """An InferenceSession of a file or of a model's bytes."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = LOG_ERRORS
        return onnxruntime.InferenceSession(model, options, providers=['CPUExecutionProvider'])

    def logits(self, file, images):
        session = self.session(file)
        name = session.get_inputs()[0].name
        return np.concatenate([session.run(None, {name: image[None]})[0] for image in images])

    def calibrate(self):
        """The least and largest values of all tensors at the operators, on the images."""
        from onnxruntime.quantization.calibrate import MinMaxCalibrater

        calibrater = MinMaxCalibrater(self.source, list(OPERATORS),
                                      os.path.join(self.work, 'ranges.onnx'))
        calibrater.augment_graph()
        calibrater.infer_session = self.session(calibrater.augmented_model_path)
        calibrater.collect_data(OneByOne(self.images))
        return calibrater.compute_data()

    def quantise(self, nodes, file):
        """Writes the graph with some nodes in int8.

        Weights take half of int8's range: without VNNI a processor adds two products in 16 bits,
        which products of 7 and 8 bits cannot exceed. So AVX2 gives the logits that VNNI gives.
        """
        import onnx
        from onnxruntime.quantization import QDQQuantizer, QuantType

        copy = onnx.ModelProto()
        copy.CopyFrom(self.model)
        with quiet_root():
            quantizer = QDQQuantizer(
                copy, per_channel=True, reduce_range=HALF, weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8, tensors_range=self.ranges,
                nodes_to_quantize=list(nodes), nodes_to_exclude=[],
                op_types_to_quantize=list(OPERATORS),
                extra_options={'OpTypesToExcludeOutputQuantization': ['MatMul', 'Gemm']})
            quantizer.quantize_model()
        onnx.save(quantizer.model.model, file)

    def error(self, nodes):
        """The error of the logits with some nodes in int8, on the probes."""
        file = os.path.join(self.work, 'probe.onnx')
        self.quantise(nodes, file)
        return relative_error(self.expected, self.logits(file, self.probes))

    def measure(self, progress=lambda nodes: nodes):
        """Measures each node alone: a list of Node, in the order of the graph."""
        macs = self.candidates()
        return [Node(name, macs[name], self.error([name])) for name in progress(list(macs))]


class OneByOne:
    """Images for ONNX Runtime's calibration, float32 [N, 3, H, W], one in a batch."""

    def __init__(self, images):
        self.images = iter(images)

    def get_next(self):
        image = next(self.images, None)
        return None if image is None else {'image': image[None]}

    def __len__(self):
        raise TypeError('ONNX Runtime is to take all at once')


def relative_error(expected, got):
    """The root mean square of an error of logits, float [N, K], relative to how far they deviate
    from their mean over the images; of one image, to the logits."""
    deviation = (expected - expected.mean(axis=0)).std() or expected.std() or 1.0
    return float(np.sqrt(np.square(got - expected).mean()) / deviation)


def choose(nodes, share, enough):
    """Chooses the nodes that stay in float32: those with the most error for their work.

    Errors of single nodes add like independent ones, by their squares. From the node with the
    largest square for each multiply-add on, nodes are left out until the rest is small enough, as
    long as those that are left out do no more than a share of all multiply-adds.

    Args:
        nodes: list of Node.
        share: of all multiply-adds, 0..1.
        enough: the error of all others together, as that of a Node, that needs no mending.

    Returns:
        Names, in the order of the graph.
    """
    budget = share * sum(node.macs for node in nodes)
    left_out = set()
    for node in sorted(nodes, key=lambda node: -node.error ** 2 / node.macs):
        # summed anew: one node's error may be 10^8 times that of all others
        if sum(one.error ** 2 for one in nodes if one.name not in left_out) <= enough ** 2:
            break
        if node.macs <= budget:
            budget -= node.macs
            left_out.add(node.name)
    return [node.name for node in nodes if node.name in left_out]


def with_initializers(model):
    """The model with its constants as initializers: ONNX Runtime's tools take only those for
    weights, and would give one scale to all channels of another."""
    import onnx

    kept = []
    for node in model.graph.node:
        value = next((one.t for one in node.attribute if one.name == 'value'), None)
        if node.op_type != 'Constant' or value is None:
            kept.append(node)
            continue
        tensor = onnx.TensorProto()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
        model.graph.initializer.append(tensor)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def macs_of(model, image, session_of):
    """The multiply-adds of the nodes with weights and of the products of two activations.

    Args:
        model: ONNX model, its weights as initializers.
        image: float32 [1, 3, H, W].
        session_of: function from a model's bytes to a session.

    Returns:
        {name of a node: number for one image}, of those that have a float32 input from outside.
    """
    import onnx

    nodes = [node for node in model.graph.node if node.op_type in OPERATORS]
    weights = {one.name: list(one.dims) for one in model.graph.initializer}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = {one.name for one in probe.graph.output}
    wanted = [name for node in nodes for name in (node.output[0], *node.input[:2])
              if name not in weights]
    inputs = {one.name for one in probe.graph.input}
    for name in dict.fromkeys(wanted):
        if name not in known and name not in inputs:
            probe.graph.output.append(onnx.helper.make_tensor_value_info(
                name, onnx.TensorProto.FLOAT, None))
    session = session_of(probe.SerializeToString())
    names = [one.name for one in session.get_outputs()]
    shapes = {name: list(value.shape) for name, value in
              zip(names, session.run(None, {session.get_inputs()[0].name: image}), strict=True)}
    shapes |= weights | dict.fromkeys(inputs, list(image.shape))
    found = {}
    for node in nodes:
        output, (first, second) = shapes[node.output[0]], (shapes[name] for name in node.input[:2])
        depth = np.prod(second[1:]) if node.op_type == 'Conv' else first[-1]
        found[node.name] = float(np.prod(output) * depth)
    return found


@contextlib.contextmanager
def quiet_root():
    """Drops what ONNX Runtime's tools say to the root of the logs about preparations."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
