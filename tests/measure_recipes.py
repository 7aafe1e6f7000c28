"""Measures the recipe for small data beside the ImageNet recipe and a linear probe: the table of
docs/finetune.md.

python -m tests.measure_recipes FOLDER [-models NAME ...] [-sets NAME ...] [-seeds 0 1 2]
    [-recipe finetune] [-epochs N]

A small model of each family, with the options of `SMALL` and `MODELS` over a yaml of the zoo, is
pre-trained once on what small_sets.py has for it. From these weights it is fine-tuned on
each small set: by the ImageNet recipe of its yaml, and by `-recipe finetune`, over as many
epochs, with the same batch, and with a seed that also draws the images of the set. Both choose
their epoch by the validation images; `best.pdparams` is then evaluated on the test images, once.
The linear probe is fitted to the same training images, and evaluated on the same test images.

What is done stays in FOLDER (results.json), and a second call goes on from there.
"""
import argparse
import contextlib
import glob
import hashlib
import json
import os
import shutil
import statistics
from argparse import Namespace

import numpy as np

from common.config import plain_config, update_config
from common.core.errors import errors_of_a_tool, say
from common.core.files import replace_atomically
from common.core.flags import add_flag, check_least
from common.core.processes import set_up_cpu
from common.core.signals import StopSignal
from common.data.datasets import get_dataset
from common.data.recognise import recognise
from common.probing.classifiers import check_extra
from common.probing.linear_probe import probe
from common.train.launcher import launch
from common.weights.load import BEST
from common.zoo import FINETUNE, build_model, create_model, model_config, with_recipe
from tests.small_sets import OPTIONS, SETS, pretraining, write_set

SMALL = ['DATA.IMAGE_SIZE=32', 'DATA.CROP_PCT=1.0', 'DATA.NUM_WORKERS=0',
         'DATA.BATCH_SIZE_EVAL=128', 'REPORT_FREQ=1000', 'SAVE_FREQ=1000']
# yaml of the zoo -> what makes its model one of 0.3 to 0.6 million parameters for 32 pixels
MODELS = {
    'vit_small_patch16_224': [
        'MODEL.PATCH_SIZE=8', 'MODEL.EMBED_DIM=96', 'MODEL.DEPTH=6', 'MODEL.NUM_HEADS=4',
        'MODEL.MLP_RATIO=2.0'],
    'vitae_small': [
        'MODEL.RATIOS=[4,2,1]', 'MODEL.EMBED_DIMS=[16,16,32]', 'MODEL.TOKEN_DIMS=[32,32,64]',
        'MODEL.DEPTHS=[0,0,4]', 'MODEL.NUM_HEADS=[1,1,4]', 'MODEL.GROUPS=[1,1,16]',
        'MODEL.MLP_RATIO=2.0'],
    'vitaev2_vsa_s': [
        'MODEL.ATTENTION=[vsa,vsa]', 'MODEL.RATIOS=[4,2]', 'MODEL.EMBED_DIMS=[16,24]',
        'MODEL.TOKEN_DIMS=[32,64]', 'MODEL.DEPTHS=[1,3]', 'MODEL.NUM_HEADS=[2,4]',
        'MODEL.REDUCTION_HEADS=[2,4]', 'MODEL.GROUPS=[8,16]', 'MODEL.REDUCTION_GROUPS=[1,8]',
        'MODEL.WINDOW_SIZE=4', 'MODEL.MLP_RATIO=2.0', 'MODEL.DROPPATH_SLICES=cumulative'],
    'swin_tiny': [
        'MODEL.ATTENTION=[window,window]', 'MODEL.TOKEN_DIMS=[32,64]', 'MODEL.DEPTHS=[2,4]',
        'MODEL.NUM_HEADS=[2,4]', 'MODEL.WINDOW_SIZE=4'],
}
# of the pre-training, over the ImageNet recipe, which is one for 300 epochs of a million images
PRETRAINING = [
    'TRAIN.WARMUP_EPOCHS=1', 'TRAIN.COOLDOWN_EPOCHS=0', 'TRAIN.BASE_LR=2e-3',
    'TRAIN.LR_BASE_BATCH=null', 'TRAIN.WEIGHT_DECAY=0.05', 'TRAIN.GRAD_CLIP=1.0',
    'TRAIN.EMA.DECAY=null', 'TRAIN.EMA.BEST=false', 'DATA.BATCH_SIZE=64',
    'AUG.SCALE=[0.5,1.0]', 'AUG.HFLIP=0.0', 'AUG.AUTO_AUGMENT=null', 'AUG.MIXUP=0.0',
    'AUG.CUTMIX=0.0', 'AUG.ERASING=0.0', 'MODEL.DROPOUT=0.0', 'MODEL.ATTENTION_DROPOUT=0.0',
    'MODEL.DROPPATH=0.05', 'VALIDATE_FREQ=5']
# until some 96 % of its validation images are right: those without convolutions learn slower
PRETRAINING_EPOCHS = {'vit_small_patch16_224': 40, 'vitae_small': 12, 'vitaev2_vsa_s': 12,
                      'swin_tiny': 40}
IMAGENET, PROBE = 'ImageNet recipe', 'linear probe'


class Measurement:
    """Trains and evaluates in a folder, and keeps what it has found.

    Args:
        folder: of the images, weights and results; made if it is missing.
        recipe: what stands beside the ImageNet recipe; see common.zoo.with_recipe.
        epochs: of each fine-tuning; None: the recipe's.
    """

    def __init__(self, folder: str, recipe: str, epochs: int | None):
        self.folder, self.recipe, self.epochs = folder, recipe, epochs
        self.file = os.path.join(folder, 'results.json')
        os.makedirs(folder, exist_ok=True)
        self.results = {}
        if os.path.isfile(self.file):
            with open(self.file) as stream:
                self.results = {tuple(key): acc1 for key, acc1 in json.load(stream)}

    def acc1(self, model: str, name: str, seed: int, how: str) -> float:
        """The accuracy on the test images of a set, measured now or before.

        Args:
            model: of MODELS.
            name: of SETS.
            seed: of the set's images and of the training.
            how: IMAGENET, PROBE or the recipe.
        """
        options, used = [], None
        if how != PROBE:
            options = self.options(model, name, seed, how)
            used = digest(self.config(model, how), options)
        key = (model, name, seed, how, used)
        if key not in self.results:
            acc1 = self.probe(model, name, seed) if how == PROBE else \
                self.fine_tune(model, name, seed, how, options)
            self.results[key] = acc1
            with replace_atomically(self.file) as temporary, open(temporary, 'w') as stream:
                json.dump(list(self.results.items()), stream, indent=0)
            say(f'{model} {name} seed {seed} {how}: {acc1:.2%}')
        return self.results[key]

    def config(self, model, how):
        """The config of a model with the recipe by which it is trained."""
        config = model_config(model)
        return config if how == IMAGENET else with_recipe(config, how)

    def options(self, model, name, seed, how):
        """Options of a fine-tuning, with epochs and batch of the recipe for all."""
        recipe = self.config(model, self.recipe)
        epochs = self.epochs or recipe.TRAIN.NUM_EPOCHS
        options = [*SMALL, *MODELS[model], *OPTIONS[name], f'SEED={seed}',
                   f'TRAIN.NUM_EPOCHS={epochs}', f'DATA.BATCH_SIZE={recipe.DATA.BATCH_SIZE}']
        if how == IMAGENET:
            options += shortened(self.config(model, how).TRAIN, epochs)
        return options

    def fine_tune(self, model, name, seed, how, options):
        """Trains by a recipe, and evaluates best.pdparams on the test images."""
        data, config = self.images(name, seed), self.config(model, how)
        run = self.run(config, f'{data}/tune', options, pretrained=self.weights(model))
        best = os.path.join(run, BEST)
        found = self.run(config, f'{data}/test', [*SMALL, *MODELS[model]], pretrained=best,
                         eval=True)
        with open(os.path.join(found, 'result.json')) as stream:
            acc1 = json.load(stream)['acc1']
        shutil.rmtree(os.path.join(self.folder, 'runs'))
        return acc1

    def probe(self, model, name, seed):
        """Fits a logistic regression to the features of the weights that others start from."""
        weights = self.weights(model)
        pretrained = create_model(model, weights, options=[*SMALL, *MODELS[model]])
        found = probe(pretrained, f'{self.images(name, seed)}/test', workers=0,
                      cache=os.path.join(self.folder, 'features'))
        return found['results']['linear']['acc1']

    def images(self, name, seed):
        """The folder of a set; the images are written if they are not there."""
        folder = os.path.join(self.folder, f'{name}_{seed}')
        if not os.path.isdir(folder):
            make = pretraining if name == 'pretraining' else SETS[name]
            shutil.rmtree(f'{folder}.part', ignore_errors=True)
            write_set(f'{folder}.part', make(np.random.default_rng(seed)))
            os.rename(f'{folder}.part', folder)
        return folder

    def weights_file(self, model):
        """Where the pre-trained weights of a model are kept."""
        return os.path.join(self.folder, f'{model}.pdparams')

    def weights(self, model):
        """The pre-trained weights of a model; they are trained if they are not there."""
        file = self.weights_file(model)
        if not os.path.isfile(file):
            run = self.run(model_config(model), f'{self.images("pretraining", 0)}/tune',
                           [*SMALL, *MODELS[model], *PRETRAINING,
                            f'TRAIN.NUM_EPOCHS={PRETRAINING_EPOCHS[model]}'])
            with replace_atomically(file) as temporary:
                shutil.copyfile(os.path.join(run, BEST), temporary)
            shutil.rmtree(os.path.join(self.folder, 'runs'))
        return file

    def run(self, config, data, options, **flags):
        """Does what `paddle-vitae train` or `eval` does, quietly; the run's folder."""
        before = set(glob.glob(os.path.join(self.folder, 'runs', '*')))
        config = update_config(config, Namespace(
            data_path=data, output=os.path.join(self.folder, 'runs'), o=options, **flags))
        with StopSignal(False) as signals, open(os.devnull, 'w') as nothing, \
                contextlib.redirect_stdout(nothing):
            launch(recognise(config), 1, build_model, get_dataset, signals)
        run, = set(glob.glob(os.path.join(self.folder, 'runs', '*'))) - before
        return run


def digest(config, options):
    """A few digits that tell one recipe from another, so that a changed one is measured anew."""
    text = json.dumps([plain_config(config), options])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def shortened(train, epochs):
    """Options that give the ImageNet recipe a warm-up and a cooldown for so many epochs, in
    proportion: with its own, 32 and 10 epochs long, it would hardly train."""
    share = epochs / train.NUM_EPOCHS
    return [f'TRAIN.WARMUP_EPOCHS={share * train.WARMUP_EPOCHS:g}',
            f'TRAIN.COOLDOWN_EPOCHS={round(share * train.COOLDOWN_EPOCHS)}']


def recipes_table(folder: str, models: list[str], sets: list[str], seeds: list[int],
                  recipe: str = FINETUNE, epochs: int | None = None) -> str:
    """Measures what is missing in a folder, and gives a markdown table.

    Args:
        folder: keeps images, weights and results.
        models: of MODELS.
        sets: of SETS.
        seeds: a measurement for each.
        recipe: a name or the path of a yaml file, see common.zoo.with_recipe.
        epochs: of each fine-tuning; None: the recipe's.

    Returns:
        A row for each model and set: accuracies on the test images in percent, the mean and each
        seed's.

    Raises:
        InputError: a package of the sets is missing, or no such recipe.
    """
    measurement = Measurement(folder, recipe, epochs)
    for name in sets:  # a package that is missing ends this before the trainings
        for seed in seeds:
            measurement.images(name, seed)
    if not all(os.path.isfile(measurement.weights_file(model)) for model in models):
        measurement.images('pretraining', 0)
    columns = [IMAGENET, recipe, PROBE]
    lines = ['| model | set | ' + ' | '.join(columns) + ' |', '|---' * 5 + '|']
    for model in models:
        for name in sets:
            cells = []
            for how in columns:
                found = [100 * measurement.acc1(model, name, seed, how) for seed in seeds]
                each = ', '.join(f'{value:.1f}' for value in found)
                cells.append(f'{statistics.mean(found):.1f} ({each})')
            lines.append(f'| {model} | {name} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument('folder', metavar='FOLDER', help='keeps what is done, and goes on there')
    add_flag(parser, 'models', f'default {" ".join(MODELS)}', nargs='+', default=list(MODELS),
             choices=MODELS, metavar='NAME')
    add_flag(parser, 'sets', f'default {" ".join(SETS)}', nargs='+', default=list(SETS),
             choices=SETS, metavar='NAME')
    add_flag(parser, 'seeds', 'a measurement for each, default 0 1 2', type=int, nargs='+',
             default=[0, 1, 2], metavar='N')
    add_flag(parser, 'recipe', 'the one that is measured, default finetune; or a yaml file',
             default=FINETUNE, metavar='NAME')
    add_flag(parser, 'epochs', "of each fine-tuning, default the recipe's", type=int, metavar='N')
    args = parser.parse_args()
    with errors_of_a_tool():
        check_least(args, epochs=1, seeds=0)
        check_extra()
        set_up_cpu()
        print(recipes_table(args.folder, args.models, args.sets, args.seeds, args.recipe,
                            args.epochs))


if __name__ == '__main__':
    main()
