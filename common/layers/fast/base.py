"""What the layers of this folder share: when to run the form for CPUs."""
import paddle


class Fast:
    """Base of the layers with a form for CPUs.

    Attributes:
        plain: whether to run Paddle's plain operations all the same.
    """

    plain = False


def is_fast(layer):
    """Whether a layer is to run its form for CPUs."""
    if layer.plain or not paddle.in_dynamic_mode():
        return False
    return paddle.get_device() == 'cpu'
