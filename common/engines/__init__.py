"""Detection and segmentation with PaddleDetection and PaddleSeg, whose backbone is a model of the
zoo. An engine is imported where it is used, never with these modules."""
