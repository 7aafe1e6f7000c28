"""Semantic segmentation: UPerNet over a model of the zoo, in PaddleSeg.

    config.py      the keys of a recipe
    upernet.py     the decoder and the whole model
    transforms.py  the changes of an image and its mask that upstream's recipe makes
    data.py        pairs of images and masks: ADE20K, Cityscapes, lists, folders; their checks
    components.py  model, changes and losses of a config; the same under PaddleSeg's names
    training.py    the loop: steps, rates, checkpoints that a run goes on from exactly
    evaluation.py  predictions at one or several scales, areas, mean IoU
    pictures.py    colours, overlays
    deploy.py      the graph for Paddle Inference
    run.py         a training or an evaluation, from flags to its end
    tools.py       what else the command does: pictures, exports, tables, speed, shapes

PaddleSeg gives the loss, flips and colours' norm, the predictions (sliding windows, scales) and the
areas; only components.py and evaluation.py import it, where it is used.
"""
