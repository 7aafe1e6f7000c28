"""How time and memory grow with the batch, the image, its tokens and the threads: what
`python -m common.benchmark growth` measures, on a CPU.

Each point is a process of its own for each model, so that its memory is its own; the models of a
point take turns.
"""
import json
import math
import os
import statistics
from typing import NamedTuple

from common.benchmarks.own import main as own_child
from common.benchmarks.processor import processor, today
from common.benchmarks.rivals import own_command
from common.benchmarks.turns import Contender, ratios, take_turns
from common.core.cores import free_cores
from common.core.sizes import to_pair
from common.layers.macs import count_macs
from common.zoo import build_model, create_model

BATCHES, SIZES = (1, 2, 4, 8, 16, 32, 64), (224, 320, 448, 672, 896)
# (pixels, images in a batch) of the authors' table of speeds under different resolutions.
PAPER = ((224, 128), (448, 64), (896, 16))
TABLES = ('batch', 'image', 'tokens', 'threads', 'paper')


class Point(NamedTuple):
    """Where a model is measured."""
    image_size: int
    batch_size: int
    threads: int


def points_of(table, batch_sizes, image_sizes, threads):
    """The points of a table: one thing grows, the others are the first of theirs."""
    size, batch, thread = image_sizes[0], batch_sizes[0], threads[0]
    if table == 'batch':
        return [Point(size, value, thread) for value in batch_sizes]
    if table == 'threads':
        return [Point(size, batch, value) for value in threads]
    if table == 'paper':
        return [Point(*value, thread) for value in PAPER]
    return [Point(value, batch, thread) for value in image_sizes]


def growth(names, tables, batch_sizes, image_sizes, threads, train, rounds):
    """Measures models at the points of tables.

    Args:
        names: of models; what the others cost is compared with the first.
        tables: some of TABLES.
        batch_sizes, image_sizes, threads: tuples; the first of each holds where another one grows.
        train: whether to measure training steps instead of forward passes.
        rounds: turns of each.

    Returns:
        dict: what the figures depend on, and `points`, a list of dicts with one for each point and
        model; `tables` says which points are those of a table.
    """
    wanted = {table: points_of(table, batch_sizes, image_sizes, threads) for table in tables}
    models = {(name, size): size_figures(name, size) for name in names
              for size in dict.fromkeys(p.image_size for points in wanted.values()
                                        for p in points)}
    measured = {}
    for point in dict.fromkeys(point for points in wanted.values() for point in points):
        group = {name: contender(name, point, train) for name in names}
        take_turns(list(group.values()), rounds)
        measured[point] = point_figures(group, point, models)
    return {'models': list(names), 'what': 'training step' if train else 'inference',
            'processor': processor(), 'cores': free_cores(), 'date': today(), 'rounds': rounds,
            'tables': {table: [list(measured).index(point) for point in points]
                       for table, points in wanted.items()},
            'points': list(measured.values())}


def size_figures(name, size):
    """{'tokens': of each stage, 'gmacs'} of a model for images of a size; raises InputError for a
    size that it cannot have."""
    model = create_model(name, image_size=size)
    height, width = to_pair(size)
    tokens = [height // stride * (width // stride) + model.num_prefix_tokens
              for _, stride in model.stage_sizes()]
    return {'tokens': tokens,
            'gmacs': count_macs(lambda: build_model(model.config), [height, width]) / 1e9}


def contender(name, point, train):
    """The process of one model at one point."""
    spec = {'kind': 'eager', 'name': name, 'image_size': to_pair(point.image_size),
            'batch': point.batch_size, 'train': train, 'threads': point.threads}
    env = {**os.environ, 'OMP_NUM_THREADS': str(point.threads)}
    return Contender(name, own_command(own_child, json.dumps(spec)), env)


def point_figures(group, point, models):
    """{name: figures} of one point, after its turns."""
    first = next(iter(group.values()))
    found = {}
    for name, one in group.items():
        found[name] = {**point._asdict(), **models[name, point.image_size], 'missing': one.missing}
        if not one.missing:
            time = statistics.median(one.seconds) / point.batch_size
            found[name] |= {'seconds': one.seconds, 'seconds_an_image': time,
                            'images_per_s': 1 / time, 'peak_mb': one.peak_mb}
            if not first.missing:
                ratio, low, high = ratios(one.seconds, first.seconds)
                found[name] |= {'cost': ratio, 'cost_low': low, 'cost_high': high}
    return found


def growth_tables(result):
    """The result of `growth` as markdown, a table for each of its tables and models."""
    texts = [f'{result["what"]}, float32; {result["processor"]}; {result["date"]}']
    for table, indices in result['tables'].items():
        for name in result['models']:
            rows = [result['points'][index][name] for index in indices]
            texts.append(model_growth(table, name, rows, name != result['models'][0]))
    return '\n\n'.join(texts)


def model_growth(table, name, rows, beside):
    """One table of one model; `beside`: with what it costs in times of the first model."""
    heads, cells = COLUMNS[table]
    heads = [f'{name}: {heads[0]}', *heads[1:], *(['Times the first model'] if beside else [])]
    lines = [f'| {" | ".join(heads)} |', '|---' * len(heads) + '|']
    previous = None
    for row in rows:
        if row['missing']:
            lines.append(f'| {cells(row, None, rows)[0]} | not measured: {row["missing"]} '
                         + '| ' * (len(heads) - 2) + '|')
            continue
        texts = cells(row, previous, rows)
        if beside:
            texts.append(f'{row["cost"]:.2f} ({row["cost_low"]:.2f} to {row["cost_high"]:.2f})'
                         if 'cost' in row else '')
        lines.append(f'| {" | ".join(texts)} |')
        previous = row
    return '\n'.join(lines)


def measured_first(rows):
    """The first row that has figures."""
    return next(row for row in rows if not row['missing'])


def exponent(row, previous, key):
    """e, where a figure grows as the pixels to the power of e from one row to the next."""
    return math.log(row[key] / previous[key]) / math.log(
        row['image_size'] ** 2 / previous['image_size'] ** 2)


def batch_cells(row, previous, rows):
    """Of a row of the table over batches."""
    if row['missing']:
        return [str(row['batch_size'])]
    more = ''
    if previous is not None:
        images = row['batch_size'] - previous['batch_size']
        more = f'{(row["peak_mb"] - previous["peak_mb"]) / images:.1f}'
    return [str(row['batch_size']), f'{row["images_per_s"]:.2f}',
            f'{row["images_per_s"] / measured_first(rows)["images_per_s"]:.2f}',
            f'{row["peak_mb"]:.0f}', more]


def image_cells(row, previous, rows):
    """Of a row of the table over image sizes."""
    if row['missing']:
        return [str(row['image_size'])]
    grows = ['', ''] if previous is None else [
        f'{exponent(row, previous, key):.2f}' for key in ('seconds_an_image', 'gmacs')]
    return [str(row['image_size']), f'{row["gmacs"]:.3g}', f'{row["images_per_s"]:.2f}',
            f'{row["gmacs"] * row["images_per_s"]:.0f}', *grows, f'{row["peak_mb"]:.0f}']


def token_cells(row, previous, rows):
    """Of a row of the table over tokens."""
    tokens = ' + '.join(map(str, row['tokens']))
    if row['missing']:
        return [tokens]
    total, share, more = sum(row['tokens']), quadratic_share(row, rows), ''
    if previous is not None:
        new = (total - sum(previous['tokens'])) * row['batch_size']
        more = f'{1e3 * (row["peak_mb"] - previous["peak_mb"]) / new:.0f}'
    return [tokens, '' if share is None else f'{100 * share:.0f} %',
            f'{1e6 * row["gmacs"] / total:.0f}', f'{1e6 * row["seconds_an_image"] / total:.0f}',
            more]


def quadratic_share(row, rows):
    """Which part of a row's MACs grows with the square of the pixels: attention of all tokens to
    all. The MACs of three sizes tell it, whatever the model is; None where there are fewer."""
    sizes = sorted({(other['image_size'] ** 2, other['gmacs']) for other in rows})
    if len(sizes) < 3:
        return None
    (x0, y0), (x1, y1), (x2, y2) = sizes[0], sizes[len(sizes) // 2], sizes[-1]
    square = ((y2 - y0) / (x2 - x0) - (y1 - y0) / (x1 - x0)) / (x2 - x1)
    return max(0.0, square * row['image_size'] ** 4 / row['gmacs'])


def thread_cells(row, previous, rows):
    """Of a row of the table over threads."""
    if row['missing']:
        return [str(row['threads'])]
    first = measured_first(rows)
    times = row['images_per_s'] / first['images_per_s']
    slow, fast = (row['batch_size'] / pick(row['seconds']) for pick in (max, min))
    return [str(row['threads']), f'{row["images_per_s"]:.2f}', f'{slow:.2f} to {fast:.2f}',
            f'{times:.2f}', f'{100 * times * first["threads"] / row["threads"]:.0f} %',
            f'{row["peak_mb"]:.0f}']


def paper_cells(row, previous, rows):
    """Of a row of the authors' table."""
    if row['missing']:
        return [f'R@{row["image_size"]}']
    return [f'R@{row["image_size"]}', str(row['batch_size']), f'{row["images_per_s"]:.2f}',
            f'{row["images_per_s"] / measured_first(rows)["images_per_s"]:.3f}',
            f'{row["peak_mb"]:.0f}']


# table -> (heads, function that gives the cells of a row); pixels^e is what `exponent` gives.
COLUMNS = {
    'batch': (['batch', 'img/s', 'To the first', 'Peak MB', 'MB an image more'], batch_cells),
    'image': (['image', 'GMACs', 'img/s', 'GMAC/s', 'Time, pixels^e', 'MACs, pixels^e', 'Peak MB'],
              image_cells),
    'tokens': (['tokens of the stages', 'MACs of all to all', 'kMACs a token', 'µs a token',
                'kB a token more'], token_cells),
    'threads': (['threads', 'img/s', 'Spread', 'To the first', 'Used', 'Peak MB'], thread_cells),
    'paper': (['image', 'Batch', 'img/s', 'To the first', 'Peak MB'], paper_cells),
}
