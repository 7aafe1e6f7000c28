"""The fastest runtime here for an export: measured, said, and kept beside the export.

The choice holds for a processor, a number of threads, a batch size, and versions: the folder's
auto.json has it with all of them, and another start under the same conditions takes it from there.
"""
import contextlib
import importlib.metadata
import json
import logging
import os
import statistics
import time

import numpy as np

from common.core.cores import core_count
from common.core.errors import InputError
from common.core.files import replace_atomically
from common.core.processes import processor
from common.deploy.check import SAMPLING_TOLERANCE, difference, random_pictures, wrong
from common.deploy.folder import AUTO_FILE, found_by_check, read_json

SECONDS = 1.0        # for each runtime
LEAST_TURNS = 3
MOST_CHOICES = 32    # that a file keeps: the newest ones
PACKAGES = ('paddlepaddle', 'paddlepaddle-gpu', 'onnxruntime', 'openvino')

logger = logging.getLogger('paddle_vitae')


def load_fastest(folder, makers, batch_size, threads=None):
    """Loads an export in the runtime that is the fastest one here.

    Args:
        folder: of the export.
        makers: {runtime: function that loads the folder in it, or None if it is not installed}.
        batch_size: images in a call.
        threads: CPU cores; None is what set_up_cpu takes, else OMP_NUM_THREADS, else one.

    Returns:
        A Classifier with `notes`, a list of sentences, which also go to the log.

    Raises:
        InputError: no runtime can run it.
    """
    if batch_size < 1:
        raise InputError(f'batch_size: got {batch_size}, expected at least 1')
    installed = {name: make for name, make in makers.items() if make}
    missing = [f'{name} is not installed' for name in makers if name not in installed]
    conditions = conditions_of(folder, batch_size, threads)
    kept = read_choice(folder, conditions)
    if kept and set(kept['images_per_s']) | set(kept['left_out']) == set(installed):
        name, notes = kept['runtime'], [sentence(kept, missing, 'as measured before')]
        classifier = installed[name]()
    else:
        tolerance, _ = found_by_check(read_json(folder))
        classifier, choice = measured(installed, batch_size, tolerance or SAMPLING_TOLERANCE,
                                      conditions)
        notes = [sentence(choice, missing)]
        problem = keep_choice(folder, choice)
        if problem:
            notes.append(problem)
    classifier.notes = notes
    for note in notes:
        logger.info(note)
    return classifier


def measured(makers, batch_size, tolerance, conditions=None):
    """Loads an export in several runtimes, and finds the fastest one that computes the same as the
    first.

    Args:
        makers: {runtime: function that loads it}.
        batch_size: images in a call.
        tolerance: by how much logits may differ, relative to the largest.
        conditions: what the choice holds for, a dict.

    Returns:
        The Classifier, and the choice: a dict with the conditions, `runtime`, `images_per_s` by
        runtime, and `left_out`: why some were not measured.

    Raises:
        InputError: no runtime can run it.
    """
    classifiers, left_out = {}, {}
    for name, make in makers.items():
        try:
            classifiers[name] = make()
        except InputError as error:
            left_out[name] = str(error)
    if not classifiers:
        raise InputError(f'runtime auto: no runtime can run it: {"; ".join(left_out.values())}')
    first = next(iter(classifiers.values()))
    pictures = random_pictures(first.preprocessing.image_size)
    expected = first(pictures)
    for name in list(classifiers)[1:]:
        error = difference(expected, classifiers[name](pictures))
        if not error <= tolerance:
            left_out[name] = wrong(error, tolerance)
            del classifiers[name]
    batch = np.resize(pictures, [batch_size, *pictures.shape[1:]])
    rates = images_per_second(classifiers, batch)
    fastest = max(rates, key=rates.get)  # of equal ones the first
    return classifiers[fastest], {**(conditions or {}), 'batch_size': batch_size,
                                  'runtime': fastest, 'images_per_s': rates, 'left_out': left_out}


def images_per_second(classifiers, batch):
    """The images a second of classifiers that take turns: {name: number}, of the medians."""
    for classifier in classifiers.values():
        classifier(batch)  # the first call prepares what it needs for this shape
    times, turns = {name: [] for name in classifiers}, 0
    end = time.perf_counter() + SECONDS * len(classifiers)
    while turns < LEAST_TURNS or time.perf_counter() < end:
        turns += 1
        for name, classifier in classifiers.items():
            start = time.perf_counter()
            classifier(batch)
            times[name].append(time.perf_counter() - start)
    return {name: round(len(batch) / statistics.median(own), 2) for name, own in times.items()}


def sentence(choice, more=(), how=''):
    """What was found and taken, for the log and the terminal."""
    rates = ', '.join(f'{name} {rate:.1f}' for name, rate in choice['images_per_s'].items())
    threads = choice.get('threads', core_count())
    others = ''.join(f'; {name}: {why}' for name, why in choice['left_out'].items())
    others += ''.join(f'; {text}' for text in more)
    return (f'runtime auto: {choice["runtime"]}{", " if how else ""}{how}; img/s in batches of '
            f'{choice["batch_size"]} with {threads} thread{"s" * (threads != 1)}: {rates}{others}')


def conditions_of(folder, batch_size, threads=None):
    """What a choice depends on: {name: value}, of JSON."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {'processor': processor(), 'threads': threads or core_count(),
            'batch_size': batch_size, 'versions': versions, 'files': read_json(folder)['files']}


def read_choices(folder):
    """The choices of a folder's auto.json, a list; it is empty if there are none, or the file is
    not as this module writes it, which costs a measurement and no more."""
    try:
        with open(os.path.join(folder, AUTO_FILE), encoding='utf-8') as file:
            choices = json.load(file)
        return [choice for choice in choices if is_choice(choice)]
    except (OSError, ValueError, RecursionError, TypeError):
        return []


def is_choice(value):
    """Whether a value may be a choice that was kept."""
    return isinstance(value, dict) and isinstance(value.get('images_per_s'), dict) \
        and isinstance(value.get('left_out'), dict) \
        and value.get('runtime') in value['images_per_s'] \
        and all(type(rate) in (int, float) for rate in value['images_per_s'].values())


def same_conditions(choice, conditions):
    return all(choice.get(name) == value for name, value in conditions.items())


def read_choice(folder, conditions):
    """The choice that was kept for the conditions, or None."""
    return next((choice for choice in read_choices(folder)
                 if same_conditions(choice, conditions)), None)


def keep_choice(folder, choice):
    """Puts a choice into a folder's auto.json, in place of an earlier one for the same conditions.

    Returns:
        A sentence about why it cannot be kept, or None.
    """
    conditions = {name: value for name, value in choice.items()
                  if name not in ('runtime', 'images_per_s', 'left_out')}
    others = [one for one in read_choices(folder) if not same_conditions(one, conditions)]
    file = os.path.join(folder, AUTO_FILE)
    try:
        with replace_atomically(file) as temporary, \
                open(temporary, 'w', encoding='utf-8') as stream:
            json.dump([*others[1 - MOST_CHOICES:], choice], stream, indent=1)
    except OSError as error:
        return f'{file}: cannot write it ({error.strerror}): the next start measures again'
    return None
