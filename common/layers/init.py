"""The initialisers that the models share."""
import math

from paddle import nn
from paddle.nn.initializer import Constant, Normal, Uniform


def normal_(parameter, std=0.02):
    """Fills with a normal of standard deviation `std`.

    This is what timm's trunc_normal_(std=.02) does in effect: it cuts at -2 and 2, which is a
    hundred deviations. Paddle's TruncatedNormal cuts elsewhere in 2.6 than in 3.x.
    """
    # compat: truncated-normal
    Normal(std=std)(parameter)


def zeros_(parameter):
    Constant(0.0)(parameter)


def ones_(parameter):
    Constant(1.0)(parameter)


def lecun_normal_(parameter):
    """A convolution weight [out, in / groups, kh, kw]: normal, std sqrt(1 / fan_in)."""
    normal_(parameter, std=math.sqrt(1.0 / math.prod(parameter.shape[1:])))


def kaiming_normal_(parameter):
    """A convolution weight [out, in / groups, kh, kw]: normal, std sqrt(2 / fan_out)."""
    fan_out = parameter.shape[0] * math.prod(parameter.shape[2:])
    normal_(parameter, std=math.sqrt(2.0 / fan_out))


def torch_conv_(layer):
    """A convolution as PyTorch starts it: weight and bias uniform in +-1 / sqrt(fan_in)."""
    bound = 1 / math.sqrt(math.prod(layer.weight.shape[1:]))
    Uniform(-bound, bound)(layer.weight)
    if layer.bias is not None:
        Uniform(-bound, bound)(layer.bias)


def init_linear(layer):
    """A linear layer as every family starts it: normal, std .02, bias 0."""
    normal_(layer.weight, std=0.02)
    if layer.bias is not None:
        zeros_(layer.bias)


def init_layers(model):
    """Starts the linear layers of a model (`init_linear`), its convolutions (`torch_conv_`) and
    norms (1 and 0)."""
    for layer in model.sublayers():
        init_layer(layer)


def init_layer(layer):
    """Starts a layer of a kind that `init_layers` names; others are left as they are."""
    if isinstance(layer, nn.Linear):
        init_linear(layer)
    elif isinstance(layer, nn.Conv2D):
        torch_conv_(layer)
    elif isinstance(layer, (nn.LayerNorm, nn.BatchNorm2D)):
        ones_(layer.weight)
        zeros_(layer.bias)
