"""Weights of detectors: their names, and what a file may hold.

A detector's names are PaddleDetection's, with the model of the zoo under `backbone.net.model.`.
"""
from common.core.errors import InputError
from common.engines.detection.model import build_detector, config_backbone
from common.weights.load import assign, check_state, read_weights

MARK = 'backbone.net.'  # begins names of a detector, and of nothing else


def build_for_training(config):
    """A detector with the weights that its config names, for a training.

    A classifier's, or a backbone's, go into the backbone. Of a detector's for other classes the
    last layers stay new.

    Returns:
        (Detector, sentences for the log).

    Raises:
        InputError: as create_backbone; or a file of a detector that does not fit in anything else.
    """
    file = config.MODEL.PRETRAINED
    weights = read_weights(file) if file else None
    if weights is None or not is_detector(weights):
        backbone = config_backbone(config, file)
        return build_detector(config, backbone), backbone.notes
    detector = build_detector(config)
    return detector, load_detector(detector, file, weights, new_heads=True)


def build_for_tests(config, weights=None):
    """A detector with all the weights of MODEL.PRETRAINED, in evaluation mode.

    weights: what the file holds, if it is read already.

    Returns:
        (Detector, Weights).

    Raises:
        InputError: the file is not of this detector.
    """
    file = config.MODEL.PRETRAINED
    if not file:
        raise InputError('-pretrained: got nothing, expected the weights of a trained detector')
    weights = weights or read_weights(file)
    if not is_detector(weights):
        raise InputError(f'{file}: got weights of no detector, expected those of one; `train '
                         f'-pretrained` starts from weights of a classifier')
    detector = build_detector(config)
    load_detector(detector, file, weights)
    detector.eval()
    return detector, weights


def is_detector(weights):
    """Whether Weights are of a detector."""
    return any(name.startswith(MARK) for name in weights.state)


def load_detector(detector, file, weights, new_heads=False):
    """Loads a detector's weights; all of them fit, or nothing is assigned.

    Args:
        detector: Detector.
        file: for messages.
        weights: Weights.
        new_heads: whether layers whose shape depends on the classes may stay new.

    Returns:
        Sentences for the log.
    """
    state, target = dict(weights.state), detector.engine.state_dict()
    kept, notes = set(), []
    if new_heads:
        kept = {name for name in target if name.startswith(HEADS)
                and is_last_layer(name) and name in state
                and list(state[name].shape) != list(target[name].shape)}
        for name in kept:
            del state[name]
        if kept:
            notes.append(f'{file}: for other classes; {len(kept)} arrays of the last layers start '
                         f'anew')
    values, cast_notes = check_state(state, target, kept, file)
    assign(detector.engine, values)
    return notes + cast_notes


HEADS = ('bbox_head.', 'mask_head.')
LAST_LAYERS = ('bbox_score', 'bbox_delta', 'mask_fcn_logits')


def is_last_layer(name):
    """Whether a parameter's shape depends on the number of classes."""
    return any(layer in name for layer in LAST_LAYERS)
