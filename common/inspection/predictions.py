"""Predictions for images: as dicts, as lines on the terminal, as JSON and as CSV."""
import csv
import json
import sys

from tqdm import tqdm

from common.apis import as_classifier, classify
from common.core.errors import complain, drop_output, printable
from common.core.files import replace_atomically
from common.core.probabilities import THRESHOLD


def predict(model, files, topk=5, batch_size=32, workers=None, threshold=THRESHOLD):
    """Yields a prediction for each file, in their order: a dict, as -json writes it.

    It has `file`, and `classes`, a list of {label, name, score}, most probable first, or `error`.
    The list of a multi-label model may be empty.
    Names are as common.core.errors.printable gives them.

    Args:
        model: of init_model, or a Classifier.
        files: paths of images.
        topk: how many classes.
        batch_size: images in a forward pass.
        workers: processes that read the files; None is up to four.
        threshold: of a multi-label model, which has no topk.
    """
    classifier = as_classifier(model)
    for file, (scores, error) in zip(files, classify(classifier, files, batch_size, workers),
                                     strict=True):
        if error:
            yield {'file': printable(file), 'error': error}
        else:
            yield {'file': printable(file),
                   'classes': classifier.predicted(scores, topk, threshold)}


def print_predictions(predictions, count, go_on):
    """Prints a line for each prediction as it comes, with a progress bar.

    Args:
        predictions: of `predict`.
        count: how many there will be.
        go_on: whether to go on when the lines cannot be written any more, for a file that was asked
            for.

    Returns:
        A list of the predictions.
    """
    printed = []
    with tqdm(total=count, unit='img', disable=None, leave=False) as bar:
        for prediction in predictions:
            printed.append(prediction)
            try:
                if 'error' in prediction:
                    tqdm.write(f'error: {prediction["error"]}', file=sys.stderr)
                else:
                    tqdm.write(line_of(prediction))
            except OSError as error:
                if not go_on:
                    raise
                if not isinstance(error, BrokenPipeError):
                    complain(f'the output cannot be written: {error.strerror}')
                drop_output()
            bar.update()
    return printed


def line_of(prediction):
    """A prediction as a line of the terminal."""
    classes = prediction['classes']
    if not classes:
        return f'{prediction["file"]}  no class'
    words = '  '.join(f'{entry["name"]}: {entry["score"]:.1%}' for entry in classes)
    has_no_name = classes[0]['name'] == str(classes[0]['label'])
    return f'{prediction["file"]}  {"class " if has_no_name else ""}{words}'


def write_json(file, predictions):
    with replace_atomically(file) as temporary, open(temporary, 'w', encoding='utf-8') as target:
        json.dump(predictions, target, indent=1, ensure_ascii=False)


def write_csv(file, predictions, topk):
    """Writes a table: a file in each row, with three columns for each of its `topk` classes."""
    columns = [f'{part}_{rank}' for rank in range(1, topk + 1)
               for part in ('label', 'name', 'score')]
    with replace_atomically(file) as temporary, \
            open(temporary, 'w', encoding='utf-8', newline='') as target:
        table = csv.writer(target)
        table.writerow(['file', *columns, 'error'])
        for prediction in predictions:
            cells = [value for entry in prediction.get('classes', []) for value in entry.values()]
            cells += [''] * (len(columns) - len(cells))
            table.writerow([prediction['file'], *cells, prediction.get('error', '')])
