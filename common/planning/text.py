"""What the user of a plan reads: tables, what they rest on, and last the command to run."""
from common.core.sizes import to_pair
from common.planning.budget import Budget, gib
from common.planning.choice import ENOUGH, Choice
from common.planning.loader import LoaderSpeed, workers_for

PARTS = {'parameters': 'parameters', 'optimiser': 'optimiser',
         'average': 'average of the weights', 'ranks': "ranks' copies of the gradients"}


def mib(number):
    """Bytes as text in MiB."""
    return f'{number / 2 ** 20:.1f}' if number < 100 * 2 ** 20 else f'{number / 2 ** 20:.0f}'


def state_table(budget: Budget, choices: list[Choice]) -> list[str]:
    """What is there between steps and the gradients, for each stage of TRAIN.SHARDING."""
    stages = {choice.setting.sharding: choice.setting for choice in choices}
    columns = []
    for _, setting in sorted(stages.items()):
        column = budget.resident(setting)
        if 'ranks' not in column:  # which they are then
            column['gradients'] = budget.trained * budget.share(setting, 2)
        columns.append(column)
    head = ' | '.join(f'TRAIN.SHARDING {stage}' for stage in sorted(stages))
    lines = [f'| a device keeps | {head} |', '|---' * (1 + len(columns)) + '|']
    for part, text in {**PARTS, 'gradients': 'gradients, in a step'}.items():
        if any(part in column for column in columns):
            lines.append(f'| {text} | '
                         + ' | '.join(gib(column.get(part, 0.0)) for column in columns) + ' |')
    return lines


def activation_table(budget: Budget) -> list[str]:
    """What an image adds in each stage, and at the peak of a step."""
    timelines = [budget.plain, budget.recomputed]
    precision = budget.precision
    lines = [f'| an image adds, MiB | cells | {precision} | {precision}, TRAIN.RECOMPUTE |',
             '|---' * 4 + '|']
    tables = [[{stage: sum(parts) for stage, parts in timeline.kept_by_stage(batch).items()}
               for batch in (1, 2)] for timeline in timelines]
    for stage in sorted(tables[0][0]):
        cells = sum(step.stage == stage and step.is_cell for step in timelines[0].forward)
        values = [two[stage] - one[stage] for one, two in tables]
        last = stage == max(tables[0][0])
        name = 'classifier and loss' if last else f'stage {stage + 1}'
        if any(value > 2 ** 10 for value in values) or cells:
            lines.append(f'| {name} | {cells or ""} | '
                         + ' | '.join(mib(max(value, 0)) for value in values) + ' |')
    peaks = [timeline.peak(33) - timeline.peak(32) for timeline in timelines]
    lines.append('| at the peak of a step | | ' + ' | '.join(map(mib, peaks)) + ' |')
    return lines


def batch_table(choices: list[Choice]) -> list[str]:
    """The largest micro-batch of each setting."""
    stages = sorted({choice.setting.sharding for choice in choices})
    lines = ['| largest batch of a device | '
             + ' | '.join(f'TRAIN.SHARDING {stage}' for stage in stages) + ' |',
             '|---' * (1 + len(stages)) + '|']
    for recompute in (False, True):
        largest = {choice.setting.sharding: choice.largest for choice in choices
                   if choice.setting.recompute == recompute}
        name = 'TRAIN.RECOMPUTE' if recompute else 'without TRAIN.RECOMPUTE'
        lines.append(f'| {name} | ' + ' | '.join(str(largest[stage]) for stage in stages) + ' |')
    return lines


def disk_line(budget: Budget) -> str:
    """What the checkpoints of a run take."""
    files = budget.checkpoints()
    parts = ', '.join(f'{name} {gib(size)}' for name, size in files.items())
    return f'disk for a run: {gib(sum(files.values()))} ({parts})'


def loader_lines(config, speed: LoaderSpeed, images_per_s: float | None, devices: int,
                 images: int | None) -> list[str]:
    """What the loader must give.

    Args:
        config: of the run.
        speed: of one process, measured.
        images_per_s: of one device in training, or None if it is not known.
        devices: ranks.
        images: of an epoch; None is those of `speed`.
    """
    lines = [f'loader: a process on this machine gives {speed.images_per_s:.0f} img/s '
             f'({speed.source}, {to_text(config)})']
    if images_per_s is None:
        lines.append('time of an epoch, and workers: -images_per_s X, of one device, tells them '
                     '(paddle-vitae benchmark model NAME -train measures it there)')
        return lines
    total = images_per_s * devices
    text = f'  {devices} x {images_per_s:.1f} img/s = {total:.1f} img/s'
    if speed.bytes_per_image is not None:
        text += f', {total * speed.bytes_per_image / 2 ** 20:.1f} MiB/s of files'
    workers = workers_for(images_per_s, speed)
    lines.append(f'{text}: {workers} loader processes for each device'
                 + (f'; DATA.NUM_WORKERS is {config.DATA.NUM_WORKERS}'
                    if workers != config.DATA.NUM_WORKERS else ''))
    images = images or speed.images
    hours = images / total / 3600
    lines.append(f'an epoch of {images:,} images: {hours:.2f} h; {config.TRAIN.NUM_EPOCHS} of them '
                 f'{hours * config.TRAIN.NUM_EPOCHS / 24:.1f} days, without evaluations')
    return lines


def to_text(config):
    height, width = to_pair(config.DATA.IMAGE_SIZE)
    return f'{height}x{width} px'


def command_line(args, choice: Choice, workers: int | None) -> str:
    """The command that trains with a Choice.

    Args:
        args: of the plan's command line.
        choice: what to run.
        workers: DATA.NUM_WORKERS, or None to leave it.
    """
    setting = choice.setting
    words = ['paddle-vitae train', f'-cfg {args.cfg}']
    words += [f'-{flag} {getattr(args, flag)}' for flag in ('recipe', 'image_size')
              if getattr(args, flag) is not None]
    words.append(f'-data_path {args.data_path or "FOLDER"}')
    words += ['-amp'] * args.amp
    words.append(f'-batch_size {choice.batch}')
    if setting.devices > 1 or args.device == 'cpu':
        words.append(f'-nprocs {setting.devices}')
    own = {'TRAIN.ACCUM_ITER': setting.accum_iter, 'TRAIN.RECOMPUTE': setting.recompute,
           'TRAIN.SHARDING': setting.sharding, 'DATA.NUM_WORKERS': workers}
    options = [*(args.o or []), *(['DEVICE=cpu'] if args.device == 'cpu' else []),
               *(f'{key}={value}' for key, value in own.items()
                 if value is not None and (key, value) != ('TRAIN.SHARDING', 0))]
    return ' '.join([*words, *(f'-o {option}' for option in options)])


def last_lines(args, choice: Choice | None, choices: list[Choice], global_batch: int,
               usable: float, workers: int | None) -> list[str]:
    """What the user acts on: the command, or what does not fit."""
    if choice is None:
        least = min(choices, key=lambda one: one.total)
        setting = least.setting
        return [f'does not fit: with TRAIN.RECOMPUTE={setting.recompute} and TRAIN.SHARDING='
                f'{setting.sharding}, which take least, a batch of {args.batch_size or 1} needs '
                f'{gib(least.total)} of the {gib(usable)} that a device has for tensors'
                + (f'; batches of up to {max(one.largest for one in choices)} fit'
                   if any(one.largest for one in choices) else '')]
    setting = choice.setting
    batch = (f'batch {choice.batch} x {setting.devices} x {setting.accum_iter} accumulated = '
             f'{choice.global_batch}')
    if choice.global_batch != global_batch:
        batch += f', not the {global_batch} of the recipe'
    if choice.batch < ENOUGH and setting.accum_iter > 1:
        batch += '; so small a batch may leave a GPU idle' if args.device == 'gpu' else ''
    if setting.sharding > 1 and args.device == 'gpu':
        batch += f'; TRAIN.SHARDING {setting.sharding} has not been run on a GPU yet'
    return [f'{batch}; {gib(choice.total)} of tensors in {gib(usable)}', '',
            command_line(args, choice, workers)]
