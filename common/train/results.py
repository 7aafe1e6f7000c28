"""The result of an evaluation: what it holds, which of two is better, and how it is said.

It is a dict: `epoch`, `loss`, `seen` (the number of images), and `acc1` and `acc5`, or `mAP` and
`AP` for multi-label data; fractions of 1. `weights` is 'model' or 'average', where a run has chosen
between the model's weights and their moving average.
"""
MODEL, AVERAGE = 'model', 'average'
NAMES_OF_WEIGHTS = {MODEL: "the model's weights", AVERAGE: 'averaged weights'}
SHOWN_CLASSES = 10  # those of the lowest AP


# What a run writes beside the arrays of a checkpoint is checked: a file that is damaged, or that no
# run has written, may hold anything there.

def is_count(value):
    return type(value) is int and 0 <= value < 1 << 53


def is_float(value):
    return type(value) is float


def is_fraction(value):
    return type(value) is float and 0 <= value <= 1


FIGURES = {'epoch': is_count, 'loss': is_float, 'acc1': is_fraction, 'acc5': is_fraction,
           'seen': is_count, 'real_acc1': is_fraction, 'real_seen': is_count, 'mAP': is_fraction,
           'AP': lambda value: isinstance(value, list) and all(
               item is None or is_fraction(item) for item in value),
           'weights': lambda value: isinstance(value, str) and value in (MODEL, AVERAGE)}


def is_result(value):
    """Whether a value is the result of an evaluation."""
    return isinstance(value, dict) and {'epoch', 'loss', 'seen'} <= value.keys() <= FIGURES.keys() \
        and ({'acc1', 'acc5'} <= value.keys() or 'mAP' in value) \
        and all(FIGURES[key](figure) for key, figure in value.items())


def score_name(result):
    """The figure by which results are compared: mAP, or acc1 where it has none."""
    return 'mAP' if 'mAP' in result else 'acc1'


def score_of(result):
    """That figure; higher is better."""
    return result[score_name(result)]


def is_better(result, best):
    """Whether a result is better than the best one before it, which may be None or, of a run that
    had other labels, of another kind."""
    return best is None or score_name(result) != score_name(best) \
        or score_of(result) > score_of(best)


def better_weights(model, average):
    """Chooses between the results of the model's weights and of their average, or None.

    Returns:
        The better one with its `weights`; of equal ones the average's.
    """
    if average is None or is_better(model, average):
        return {**model, 'weights': MODEL}
    return {**average, 'weights': AVERAGE}


def figures_of(result):
    """The numbers of a result without those of single classes."""
    return {name: value for name, value in result.items() if name != 'AP'}


def score_text(result):
    """'acc@1 93.80%', or 'mAP 93.80%'."""
    return f'{"mAP" if "mAP" in result else "acc@1"} {score_of(result):.2%}'


def result_text(result):
    """The figures of an evaluation for a line of the log."""
    text = score_text(result)
    if 'acc5' in result:
        text += f'  acc@5 {result["acc5"]:.2%}'
    text += f'  loss {result["loss"]:.4f}  on {result["seen"]} images'
    if 'real_acc1' in result:
        text += f', ReaL acc@1 {result["real_acc1"]:.2%} on {result["real_seen"]}'
    return text + (f', {NAMES_OF_WEIGHTS[result["weights"]]}' if 'weights' in result else '')


def weights_text(result):
    """Whose weights they are that an evaluation has had, for a message."""
    return f'those of epoch {result["epoch"]} ({score_text(result)})' if result else 'none'


def classes_text(result, class_names):
    """The classes of the lowest AP, for a line of the log; '' where there is no AP.

    Args:
        result: of an evaluation.
        class_names: list of K names, or None.
    """
    found = [(value, index) for index, value in enumerate(result.get('AP') or ())
             if value is not None]
    if not found:
        return ''
    shown = ', '.join(f'{class_names[index] if class_names else f"class {index}"} {value:.2%}'
                      for value, index in sorted(found)[:SHOWN_CLASSES])
    without = len(result['AP']) - len(found)
    return f'AP, lowest first: {shown}{", ..." if len(found) > SHOWN_CLASSES else ""}' \
        + (f'; no image here has {without} of the {len(result["AP"])} classes' if without else '')
