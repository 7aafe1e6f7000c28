"""The Dockerfile, as far as it can be checked without Docker: what it copies is there and enough
for a wheel, extras exist, its commands are what the real parsers take, its check asks what the page
answers."""
import json
import re

from common.serve import make_parser
from tests.conftest import ROOT


def instructions():
    """[(INSTRUCTION, its text)] of the Dockerfile, continued lines joined."""
    text = re.sub(r'^#.*\n', '', (ROOT / 'Dockerfile').read_text(), flags=re.M)
    lines = re.sub(r'\\\n\s*', '', text).splitlines()
    return [tuple(line.split(' ', 1)) for line in lines if line.strip()]


def the(name):
    text, = [text for instruction, text in instructions() if instruction == name]
    return text


def test_the_image_is_built_of_what_is_there():
    kept = [line[1:] for line in (ROOT / '.dockerignore').read_text().splitlines()
            if line.startswith('!')]
    assert all((ROOT / name).exists() for name in kept)
    packages = {path.parent.name for path in ROOT.glob('*/__init__.py')} - {'tests'}
    assert packages <= set(kept) and {'pyproject.toml', 'setup.py', 'MANIFEST.in'} <= set(kept)
    assert the('COPY') == '. /src'
    installed, = [text for _, text in instructions() if text.startswith('pip install')]
    extras = re.search(r'"/src\[([\w,]+)\]"', installed)[1].split(',')
    known = re.findall(r'^(\w+) = \[', (ROOT / 'pyproject.toml').read_text(), re.M)
    assert set(extras) <= set(known) and {'cpu', 'serve'} <= set(extras)
    assert the('USER') != 'root'


def test_its_command_is_the_page():
    assert json.loads(the('ENTRYPOINT')) == ['paddle-vitae']
    name, *flags = json.loads(the('CMD'))
    args = make_parser().parse_args(flags)
    assert name == 'serve' and args.host == '0.0.0.0' and str(args.port) == the('EXPOSE')
    program, _, code = json.loads(the('HEALTHCHECK').split('CMD ')[1])
    path = re.search(r'http://127\.0\.0\.1:(\d+)(/[\w/]+)', code)
    compile(code, program, 'exec')
    assert path[1] == the('EXPOSE')
    assert f"app.get('{path[2]}')" in (ROOT / 'common/serving/app.py').read_text()
