"""Mask R-CNN and Cascade Mask R-CNN of PaddleDetection, with a model of the zoo as the backbone."""
