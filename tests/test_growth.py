"""`benchmark growth`: its points, and its tables from given figures. No time is asserted."""
import json

import pytest

from common.benchmarks import growth as module
from common.benchmarks.growth import Point, growth, growth_tables, points_of, quadratic_share
from common.benchmarks.turns import Contender
from tests.conftest import run_script


def test_points_of_the_tables():
    sizes = ((1, 4), (32, 64), (2, 1))
    assert points_of('batch', *sizes) == [Point(32, 1, 2), Point(32, 4, 2)]
    assert points_of('image', *sizes) == points_of('tokens', *sizes) == [Point(32, 1, 2),
                                                                         Point(64, 1, 2)]
    assert points_of('threads', *sizes) == [Point(32, 1, 2), Point(32, 1, 1)]
    assert points_of('paper', *sizes) == [Point(224, 128, 2), Point(448, 64, 2), Point(896, 16, 2)]


class Timed(Contender):
    """Takes as many seconds as its model and its point say, at once."""

    def start(self):
        point = self.command
        if point.image_size == 96 and self.title == 'vitae_digits':
            self.missing = 'the process ended with SIGKILL'
        self.peak_mb = 100 + point.batch_size * (point.image_size / 32) ** 2

    def turn(self, least=0.5):
        point, times = self.command, {'vit_digits': 1, 'vitae_digits': 2}[self.title]
        self.seconds.append(times * point.batch_size * (point.image_size / 32) ** 3
                            / point.threads ** 0.5)


@pytest.mark.smoke
def test_tables_of_given_figures(monkeypatch):
    monkeypatch.setattr(module, 'contender', lambda name, point, train: Timed(name, point))
    monkeypatch.setattr(module, 'take_turns', lambda group, rounds: [
        one.start() or [one.turn() for _ in range(rounds) if not one.missing] for one in group])
    result = growth(['vit_digits', 'vitae_digits'], list(module.TABLES[:4]), [2, 6], [32, 64, 96],
                    [1, 4], False, 2)
    assert len(result['points']) == 5  # those that tables share are measured once
    json.dumps(result)
    tables = {text.splitlines()[0]: text.splitlines()[2:]
              for text in growth_tables(result).split('\n\n')[1:]}
    heads = list(tables)
    assert heads[0] == '| vit_digits: batch | img/s | To the first | Peak MB | MB an image more |'
    assert tables[heads[0]] == ['| 2 | 1.00 | 1.00 | 102 |  |', '| 6 | 1.00 | 1.00 | 106 | 1.0 |']
    assert tables[heads[1]][0] == '| 2 | 0.50 | 1.00 | 102 |  | 2.00 (2.00 to 2.00) |'
    rows = [row.split(' | ') for row in tables[heads[2]]]
    # time as side^3 is as pixels^1.5; 0.00553 GMACs are those of test_examples
    assert rows[0][:3] == ['| 32', '0.00553', '1.00'] and rows[1][4] == rows[2][4] == '1.50'
    assert rows[1][6] == '108 |' and rows[2][6] == '118 |'
    assert tables[heads[3]][2] == '| 96 | not measured: the process ended with SIGKILL ' \
        + '| ' * 6 + '|'
    # 16 patches and a class token
    assert [row.split(' | ')[0] for row in tables[heads[4]]] == ['| 17', '| 65', '| 145']
    assert [row.split(' | ')[4] for row in tables[heads[4]]] == [' |', '62 |', '62 |']
    assert tables[heads[6]] == ['| 1 | 1.00 | 1.00 to 1.00 | 1.00 | 100 % | 102 |',
                                '| 4 | 2.00 | 2.00 to 2.00 | 2.00 | 50 % | 102 |']


def test_share_of_attention_in_the_multiply_adds():
    rows = [{'image_size': side, 'gmacs': 5 + 3 * side ** 2 + 2 * side ** 4} for side in (1, 2, 3)]
    assert quadratic_share(rows[0], rows) == pytest.approx(2 / 10)
    assert quadratic_share(rows[2], rows) == pytest.approx(162 / 194)
    assert quadratic_share(rows[0], rows[:2]) is None
    linear = [{'image_size': side, 'gmacs': 3 * side ** 2} for side in (1, 2, 3)]
    assert quadratic_share(linear[2], linear) == pytest.approx(0)


def test_command(tmp_path):
    code, out, err = run_script(
        ['-m', 'common.benchmark', 'growth', 'vit_digits', '-tables', 'image', '-image_size', '32',
         '-batch_size', '2', '-threads', '1', '-rounds', '1', '-json', tmp_path / 'a.json'],
        folder='.')
    assert code == 0, err
    point, = json.loads((tmp_path / 'a.json').read_text())['points']
    assert point['vit_digits']['images_per_s'] > 0 and point['vit_digits']['peak_mb'] > 100
    assert '\n| 32 | 0.00553 | ' in out
