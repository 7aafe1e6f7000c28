"""Features of a data set that are computed once, and plain classifiers on top of them.

    data.py         the images of both splits, as an evaluation sees them
    features.py     their features, by the evaluation's loader
    cache.py        the files that keep features, and what they depend on
    classifiers.py  logistic regression and k nearest neighbours, chosen on the training images
    linear_probe.py all of it, from a model and a data set to a table
"""
