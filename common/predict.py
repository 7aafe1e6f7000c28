"""Classifies images.

python -m common.predict -cfg vit_digits -pretrained best.pdparams IMAGE|FOLDER ... [-topk 5]
    [-json FILE] [-csv FILE] [-batch_size 32] [-workers 4] [-runtime paddle-bf16]
python -m common.predict -exported FOLDER IMAGE|FOLDER ...
"""
import argparse
import csv
import json
import os
import sys
from functools import partial

from tqdm import tqdm

from common.apis import (
    add_model_flags,
    as_classifier,
    classify,
    images_of_tool,
    model_of,
    set_device,
)
from common.core.errors import InputError, complain, drop_output, errors_of_a_tool, printable
from common.core.files import replace_atomically
from common.core.flags import add_flag, check_least, check_not_read, check_output
from common.core.processes import set_up_cpu
from common.data.image_names import is_image
from common.export import runtime_of
from common.runtimes import RUNTIMES, load_exported


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image file, or a folder')

    add = partial(add_flag, parser)
    add_model_flags(parser, needed=False)
    add('exported', 'folder of python -m common.export, in place of a model', metavar='FOLDER')
    add('runtime', f'what computes: {", ".join(RUNTIMES)}; default eager, or what -exported is '
        f'for', choices=RUNTIMES, metavar='NAME')
    add('topk', 'how many classes, default 5', type=int, default=5, metavar='N')
    add('json', 'writes the predictions there, too', metavar='FILE')
    add('csv', 'the same, as a table', metavar='FILE')
    add('batch_size', 'images at a time, default 32', type=int, default=32, metavar='N')
    add('workers', 'processes that read images, default up to four', type=int, metavar='N')
    return parser


def classifier_of(args):
    """The model that the flags name, as a Classifier of their runtime."""
    if not args.exported:
        for flag in ('cfg', 'pretrained'):
            if not getattr(args, flag):
                raise InputError(f'-{flag}: got none, expected -cfg and -pretrained, or -exported')
        return runtime_of(model_of(args), args.runtime or 'eager')
    for flag in ('cfg', 'pretrained', 'o'):
        if getattr(args, flag):
            raise InputError(f'-exported: got -{flag} too, expected one of the two')
    if args.device:
        set_device(args.device)
    return load_exported(args.exported, args.runtime)


def predict(model, files, topk=5, batch_size=32, workers=None):
    """Yields a dict for each file, in order, with what -json writes.

    `file`; and `classes`, a list of {label, name, score}, most probable first, or `error`. Names
    are as common.core.errors.printable gives them.
    """
    classifier = as_classifier(model)
    for file, (scores, error) in zip(files, classify(classifier, files, batch_size, workers),
                                     strict=True):
        if error:
            yield {'file': printable(file), 'error': error}
            continue
        best = scores.argsort(kind='stable')[::-1][:topk]
        yield {'file': printable(file), 'classes': [
            {'label': int(label), 'name': classifier.class_name(label),
             'score': float(scores[label])} for label in best]}


def line_of(found):
    """A prediction as a line of the terminal."""
    classes = '  '.join(f'{one["name"]}: {one["score"]:.1%}' for one in found['classes'])
    first = found['classes'][0]
    return f'{found["file"]}  {"class " if first["name"] == str(first["label"]) else ""}{classes}'


def write_json(file, predictions):
    with replace_atomically(file) as temporary, open(temporary, 'w', encoding='utf-8') as stream:
        json.dump(predictions, stream, indent=1, ensure_ascii=False)


def write_csv(file, predictions, topk):
    columns = [f'{part}_{rank}' for rank in range(1, topk + 1)
               for part in ('label', 'name', 'score')]
    with replace_atomically(file) as temporary, \
            open(temporary, 'w', encoding='utf-8', newline='') as stream:
        table = csv.writer(stream)
        table.writerow(['file', *columns, 'error'])
        for found in predictions:
            cells = [value for one in found.get('classes', []) for value in one.values()]
            cells += [''] * (len(columns) - len(cells))
            table.writerow([found['file'], *cells, found.get('error', '')])


def outputs_of(args):
    """{flag: path} of the files to be written."""
    return {flag: getattr(args, flag) for flag in ('json', 'csv')
            if getattr(args, flag) is not None}


def check_outputs(args):
    """Raises InputError for files that cannot be written, or should not be."""
    outputs = outputs_of(args)
    for flag, path in outputs.items():
        check_output(flag, path)
        if is_image(path):  # -json *.png
            raise InputError(f'-{flag}: got {path}, the name of an image, expected the name of a '
                             f'file to be written')
        check_not_read(flag, path, [args.pretrained] if args.pretrained else [])
    if len(set(map(os.path.realpath, outputs.values()))) < len(outputs):
        raise InputError(f'-json, -csv: got {args.csv} for both, expected two files')


def classify_files(args, model, files):
    """The predictions, each with its line on the terminal as it comes.

    When the lines cannot be written any more, the rest is predicted for a file that was asked for.
    """
    predictions = []
    with tqdm(total=len(files), unit='img', disable=None, leave=False) as bar:
        for found in predict(model, files, args.topk, args.batch_size, args.workers):
            predictions.append(found)
            try:
                if 'error' in found:
                    tqdm.write(f'error: {found["error"]}', file=sys.stderr)
                else:
                    tqdm.write(line_of(found))
            except OSError as error:
                if not outputs_of(args):
                    raise
                if not isinstance(error, BrokenPipeError):
                    complain(f'the output cannot be written: {error.strerror}')
                drop_output()
            bar.update()
    return predictions


def main(argv=None):
    args = make_parser().parse_args(argv)
    with errors_of_a_tool():
        check_least(args, topk=1, batch_size=1, workers=0)
        check_outputs(args)
        set_up_cpu()
        files = images_of_tool(args.images)
        for flag, path in outputs_of(args).items():
            check_not_read(flag, path, files)
        predictions = classify_files(args, classifier_of(args), files)
        failed = sum('error' in found for found in predictions)
        classes = min(args.topk, max(len(found.get('classes', [])) for found in predictions))
        if args.json:
            write_json(args.json, predictions)
        if args.csv:
            write_csv(args.csv, predictions, classes)
    if failed:
        sys.exit(f'error: {failed} of {len(files)} images could not be read')


if __name__ == '__main__':
    main()
