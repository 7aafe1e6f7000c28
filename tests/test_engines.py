"""The engines of detection and segmentation: which versions are taken; the patches of the shim."""
import importlib
import importlib.metadata
import inspect

import paddle
import pytest

from common.engines import shim
from tests.conftest import refusal

ENGINES = {'detection': shim.DETECTION, 'segmentation': shim.SEGMENTATION}


@pytest.mark.parametrize('name', ENGINES)
def test_other_version_or_none_is_refused(name, monkeypatch):
    engine = ENGINES[name]
    monkeypatch.setattr(importlib.metadata, 'version', lambda name: '1.9.9')
    message = refusal(shim.check_version, engine)
    assert 'got version 1.9.9' in message and engine.version in message
    assert 'make engines' in message and shim.REQUIREMENTS in message

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, 'version', missing)
    message = refusal(shim.check_version, engine)
    assert f'{engine.distribution} {engine.version} is not installed' in message


def test_requirements_are_exact_and_name_the_versions_of_the_patches():
    with open(shim.REQUIREMENTS) as stream:
        lines = [line.strip() for line in stream if not line.startswith('#')]
    assert all(line.count('==') == 1 for line in lines)
    assert {f'{engine.distribution}=={engine.version}' for engine in ENGINES.values()} <= {*lines}


@pytest.mark.engines
@pytest.mark.smoke
def test_patches_stand_where_they_say_and_nothing_else_sees_them():
    for name, engine in ENGINES.items():
        getattr(shim, f'use_{name}')()
        getattr(shim, f'use_{name}')()  # once is enough, twice does no harm
        patches = [patch for patch in shim.PATCHES if patch.engine == engine]
        for patch in patches:
            module = importlib.import_module(f'{engine.package}.{patch.module}')
            lines = inspect.getsource(module).splitlines()
            for place in patch.places:
                assert lines[place.line - 1].strip() == place.code, (patch.module, place.line)
            assert isinstance(module.paddle, shim.OldPaddle) == bool(patch.operations)
            assert module.paddle.zeros is paddle.zeros
            is_needed = not (patch.paddle_3 and paddle.__version__.startswith('2.'))
            for name, function in patch.names.items():
                assert (getattr(module, name) is function) == is_needed
            for operation, function in patch.operations.items():
                assert getattr(module.paddle, operation) is function
        assert not isinstance(importlib.import_module(engine.package).__dict__.get('paddle'),
                              shim.OldPaddle)


@pytest.mark.engines
@pytest.mark.smoke
def test_operations_of_old_shapes_are_needed_and_right():
    number, vector = paddle.to_tensor(3), paddle.to_tensor([4, 5])
    with pytest.raises(ValueError):
        paddle.concat([number, number])
    assert shim.concat([number, number]).tolist() == [3, 3]
    assert shim.concat([vector, vector]).tolist() == paddle.concat([vector, vector]).tolist()
    assert list(range(shim.slice_to_number(vector, [0], [0], [1]))) == [0, 1, 2, 3]
