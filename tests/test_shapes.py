"""The pictures of the demos and tests of detection and segmentation."""
import numpy as np
import pytest

from common.engines.shapes import CLASSES, GAP, draw_pictures

pytestmark = pytest.mark.smoke


def test_pictures_depend_on_the_seed_and_their_number_only():
    all_at_once = list(draw_pictures(4, seed=5))
    again, = draw_pictures(1, seed=5, first=2)
    other, = draw_pictures(1, seed=6, first=2)
    np.testing.assert_array_equal(again.image, all_at_once[2].image)
    assert again.image.shape != other.image.shape or (again.image != other.image).any()


def test_boxes_masks_and_polygons_say_the_same():
    labels = []
    for picture in draw_pictures(40, seed=1):
        height, width = picture.mask.shape
        rest = picture.mask.copy()
        assert picture.image.shape == (height, width, 3) and 112 <= height <= 144
        for shape in picture.shapes:
            labels.append(shape.label)
            assert (picture.mask[shape.mask] == shape.label + 1).all()
            rest[shape.mask] = 0
            rows, columns = np.nonzero(shape.mask)
            assert list(shape.box) == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            # area of a polygon by the shoelace formula; a pixel more or less along its border
            x, y = shape.polygon.T
            area = abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
            border = np.hypot(*(shape.polygon - np.roll(shape.polygon, 1, 0)).T).sum()
            assert abs(shape.mask.sum() - area) < border
            assert shape.polygon.min() > GAP - 1 and (shape.polygon < [width, height]).all()
        assert not rest.any()  # nothing but shapes
    assert np.bincount(labels).min() > 10 and len(np.bincount(labels)) == len(CLASSES)
