"""Plain classifiers of features by scikit-learn: logistic regression, k nearest neighbours.

What they can be tuned by, C and k, is chosen by cross-validation on the training images alone; the
validation images are looked at once. Features are standardised with the training images' mean and
deviation, in each fold with those of its own part.
"""
import warnings

import numpy as np

from common.core.errors import InputError

CS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)   # inverse strengths of the L2 penalty
KS = (1, 3, 5, 10, 20, 50)
FOLDS = 3
MAX_ITERATIONS = 1000
MAX_TUNED_ON = 5000  # training images for the cross-validation, which is most of the time
LEVEL = 0.95         # of the interval


def check_extra():
    """Raises InputError without scikit-learn."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise InputError("the probe needs scikit-learn: pip install "
                         "'paddle-vitae[probe]'") from None


def linear_probe(train, labels, seed):
    """Logistic regression on standardised features, with the C that cross-validation prefers.

    Args:
        train: float32 [N, C], features of the training images.
        labels: int64 [N].
        seed: of the folds.

    Returns:
        (fitted classifier, {'C': ..., 'tuned': accuracy in the cross-validation, 'converged':
        whether the fit has come to its end}).
    """
    from sklearn.linear_model import LogisticRegression
    model = LogisticRegression(max_iter=MAX_ITERATIONS)
    fitted, chosen = tuned(model, 'C', CS, train, labels, seed)
    return fitted, {**chosen, 'converged': bool(fitted[-1].n_iter_.max() < MAX_ITERATIONS)}


def nearest_neighbours(train, labels, seed, k=None):
    """k nearest neighbours by the cosine of standardised features.

    Args:
        train, labels, seed: see `linear_probe`.
        k: how many neighbours vote; None chooses by cross-validation.

    Returns:
        (fitted classifier, {'k': ..., 'tuned': accuracy in the cross-validation}).
    """
    from sklearn.neighbors import KNeighborsClassifier
    if k is not None and k > len(train):
        raise InputError(f'-k: got {k}, expected at most {len(train)}, the training images')
    folded = min(len(train), MAX_TUNED_ON) * (FOLDS - 1) // FOLDS
    ks = [k] if k else [count for count in KS if count <= folded] or [1]
    model = KNeighborsClassifier(metric='cosine')
    classifier, chosen = tuned(model, 'n_neighbors', ks, train, labels, seed)
    return classifier, {'k': chosen.pop('n_neighbors'), **chosen}


def tuned(model, name, values, train, labels, seed):
    """A classifier behind a standardisation, with that value of a parameter which classifies most
    images in a stratified cross-validation; the first of several.

    Where only one value is to be had, or no class has an image for each fold, there is none.

    Returns:
        (fitted on all training images, {name: value, 'tuned': accuracy or None}).
    """
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    pipeline = make_pipeline(StandardScaler(), model)
    key = f'{pipeline.steps[-1][0]}__{name}'
    chosen, score = values[len(values) // 2], None
    some = sample(labels, seed)
    folds = min(FOLDS, np.bincount(labels[some]).max())
    with warnings.catch_warnings():
        # a class with fewer images than folds, and a fit that has not ended, which is told apart
        warnings.simplefilter('ignore')
        if len(values) > 1 and folds > 1:
            search = GridSearchCV(pipeline, {key: list(values)}, refit=False, error_score='raise',
                                  cv=StratifiedKFold(int(folds), shuffle=True, random_state=seed))
            search.fit(train[some], labels[some])
            chosen, score = search.best_params_[key], float(search.best_score_)
        fitted = clone(pipeline).set_params(**{key: chosen}).fit(train, labels)
    return fitted, {name: chosen, 'tuned': score}


def sample(labels, seed):
    """The indices of at most MAX_TUNED_ON images, of each class its share, at least one."""
    share = MAX_TUNED_ON / len(labels)
    if share >= 1:
        return np.arange(len(labels))
    random = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        indices = np.flatnonzero(labels == label)
        chosen.append(random.permutation(indices)[:max(1, round(share * len(indices)))])
    return np.sort(np.concatenate(chosen))


def accuracy(predicted, labels):
    """{'correct', 'seen', 'acc1', 'interval'}: Wilson's interval at LEVEL, as fractions."""
    from scipy.stats import binomtest
    correct, seen = int((predicted == labels).sum()), len(labels)
    interval = binomtest(correct, seen).proportion_ci(LEVEL, method='wilson')
    return {'correct': correct, 'seen': seen, 'acc1': correct / seen,
            'interval': [float(interval.low), float(interval.high)]}
