"""The table of models in the READMEs, whose columns of sizes are counted, not typed."""
from common.layers.macs import count_macs, count_parameters

COLUMNS = ('Model', 'Acc@1', 'Acc@5', 'ReaL', 'Params', 'MACs', 'Image size', 'Crop',
           'Interpolation', 'Accuracy of', 'Weights')
TABLE_HEAD = f'| {" | ".join(COLUMNS)} |\n{"|---" * len(COLUMNS)}|'
PROVENANCES = {'converted': 'converted weights', 'none': 'none published'}


def table_row(name, config, model, build):
    """One line of the table, in markdown.

    Args:
        name: of the model.
        config: its config.
        model: the model itself, whether its parameters are allocated or not.
        build: function without arguments that makes it.
    """
    zoo, data = config.ZOO, config.DATA
    accuracies = ['-' if value is None else f'{value:.2f}'
                  for value in (zoo.ACC1, zoo.ACC5, zoo.REAL)]
    macs = count_macs(build, data.IMAGE_SIZE)
    cells = [name, *accuracies, f'{count_parameters(model) / 1e6:.1f}M',
             f'{macs / 1e9:.3g}G', data.IMAGE_SIZE, data.CROP_PCT, data.INTERPOLATION,
             PROVENANCES.get(zoo.PROVENANCE, zoo.PROVENANCE),
             f'[file]({zoo.WEIGHTS})' if zoo.WEIGHTS else '-']
    return '| ' + ' | '.join(str(cell) for cell in cells) + ' |'
