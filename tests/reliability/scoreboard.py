"""Reads what pytest wrote with --junitxml and prints a table with a line for each fault's row.

python -m tests.reliability.scoreboard FILE    exit code 1 if a test of a row has failed, or
                                               if none of a row was run
pytest -p tests.reliability.scoreboard         runs the tests of rows only
"""
import re
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

TESTS = Path(__file__).resolve().parent.parent
ROWS = [f'{letter}{number}' for letter, count in
        (('W', 14), ('L', 17), ('C', 10), ('D', 12), ('I', 9), ('A', 7), ('K', 12), ('R', 11),
         ('N', 3), ('P', 7), ('M', 8), ('S', 6), ('G', 5), ('O', 6), ('H', 5))
        for number in range(1, count + 1)]
# `test_file_is_refused_W5_W6` is a test of two rows; parameters may follow in brackets.
IDS = re.compile(r'^test\w*?((?:_[WLCDIAKRNPMSGOH]\d{1,2})+)(?:\[|$)', re.S)


def rows_of(name):
    """The ids at the end of a test's name."""
    match = IDS.match(name)
    return match[1].split('_')[1:] if match else []


def pytest_collection_modifyitems(config, items):
    """Leaves out the tests that have no row; pytest calls it where this module is a plugin."""
    others = [item for item in items if not rows_of(item.name)]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if rows_of(item.name)]


def outcome_of(case):
    """passed, failed, known (a fault that is known: xfail) or skipped."""
    for part in case:
        if part.tag in ('failure', 'error'):
            return 'failed'
        if part.tag == 'skipped':
            return 'known' if part.get('type') == 'pytest.xfail' else 'skipped'
    return 'passed'


def read(file):
    """{row: Counter of outcomes} of a junit file."""
    counts = {row: Counter() for row in ROWS}
    for case in ElementTree.parse(file).iter('testcase'):
        for row in rows_of(case.get('name')):
            counts[row][outcome_of(case)] += 1
    return counts


def state_of(outcomes):
    """What is said of a row."""
    if outcomes['failed']:
        return 'FAILED'
    if outcomes['known']:
        return 'in part: a test is known to fail'
    return 'ok' if outcomes['passed'] else 'NOT RUN'


def table(counts):
    """The lines of a markdown table, and one with the sums."""
    yield '| row | tests | passed | failed | known to fail | not run | result |'
    yield '|---|---|---|---|---|---|---|'
    states = {row: state_of(outcomes) for row, outcomes in counts.items()}
    for row, outcomes in counts.items():
        figures = [sum(outcomes.values()), *(outcomes[name] for name in
                                             ('passed', 'failed', 'known', 'skipped'))]
        yield f'| {row} | {" | ".join(map(str, figures))} | {states[row]} |'
    found = Counter(state.split(':')[0] for state in states.values())
    yield ''
    yield f'{len(counts)} rows: ' + ', '.join(f'{number} {state}' for state, number in
                                              found.items())


def main(file):
    counts = read(file)
    for line in table(counts):
        print(line)
    bad = [row for row, outcomes in counts.items()
           if state_of(outcomes) in ('FAILED', 'NOT RUN')]
    sys.exit(1 if bad else 0)


if __name__ == '__main__':
    main(sys.argv[1])
