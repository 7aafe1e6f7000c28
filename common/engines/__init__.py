"""Detection and segmentation with PaddleDetection and PaddleSeg: a model of the zoo serves them as a
backbone. An engine is imported where it is used, never with these modules."""
