"""What the steps of a Chrome trace cost, in words.

A trace by Paddle has spans that lie in one another: a step, the four phases of PHASES, layers,
operators, their kernels. What a span takes by itself, without those within it, counts for one of
the texts of WORDS.
"""
import re
from collections import Counter

PHASES = ('forward', 'backward', 'optimiser', 'loader')
PYTHON = 'Python between the operators'
# Of operators and compiled kernels (layers/fast/kernels.py), without their _grad or _gradient; of
# layers and PyLayers, which have capitals: all that lies within counts for them; of own spans.
WORDS = {
    **dict.fromkeys(('matmul', 'matmul_v2', 'addmm', 'bmm', 'fused_gemm_epilogue'),
                    'matrix products'),
    **dict.fromkeys(('conv2d', 'depthwise_conv2d', 'convolution', 'Conv2D', 'AddToChannels',
                     'GroupedConvolution'), 'convolutions'),
    'TiledConvolution': 'depthwise convolutions by tiles',
    **dict.fromkeys(('depthwise', 'DepthwiseConvolution'), 'depthwise convolutions'),
    **dict.fromkeys(('gelu', 'GELU', 'GeluFunction'), 'GELU'),
    **dict.fromkeys(('silu', 'swish', 'Silu', 'SiluFunction'), 'SiLU'),
    'relu': 'ReLU',
    **dict.fromkeys(('softmax', 'SoftmaxFunction'), 'softmax'),
    **dict.fromkeys(('flash_attn', 'scaled_dot_product_attention', 'attention',
                     'AttentionFunction'), 'attention'),
    **dict.fromkeys(('layer_norm', 'LayerNorm', 'LayerNormFunction', 'KernelFunction'),
                    'LayerNorm'),
    **dict.fromkeys(('batch_norm', 'sync_batch_norm', 'BatchNorm2D'), 'BatchNorm'),
    **dict.fromkeys(('dropout', 'Dropout', 'MaskFunction', 'keep', 'draw_mask', 'DropPath'),
                    'dropout and drop path'),
    **dict.fromkeys(('uniform', 'gaussian', 'bernoulli', 'randint'), 'random numbers'),
    **dict.fromkeys(('transpose', 'reshape', 'concat', 'split', 'split_with_num', 'slice',
                     'strided_slice', 'set_value', 'stack', 'unstack', 'unbind', 'expand', 'tile',
                     'flatten', 'squeeze', 'unsqueeze', 'flip', 'roll', 'pad', 'pad3d', 'assign',
                     'memcpy_h2d', 'memcpy_d2h', 'copy_to'), 'moving and copying data'),
    **dict.fromkeys(('gather', 'gather_nd', 'scatter', 'scatter_nd_add', 'index_select',
                     'take_along_axis', 'grid_sample'), 'gathering'),
    **dict.fromkeys(('add', 'subtract', 'multiply', 'divide', 'scale', 'div_scale', 'pow', 'sqrt',
                     'rsqrt', 'square', 'exp', 'log', 'floor', 'clip', 'where', 'lerp', 'add_n',
                     'elementwise_pow', 'isfinite', 'accumulation'), 'arithmetic by element'),
    **dict.fromkeys(('sum', 'mean', 'mean_all', 'max', 'argmax', 'squared_l2_norm', 'p_norm'),
                    'sums and means'),
    **dict.fromkeys(('empty', 'full', 'empty_like', 'full_like', 'full_int_array'), 'new tensors'),
    'cast': 'changes of type',
    **dict.fromkeys(('cross_entropy_with_softmax', 'softmax_with_cross_entropy',
                     'sigmoid_cross_entropy_with_logits'), 'the loss'),
    **dict.fromkeys(('adamw', 'adam', 'momentum', 'sgd', 'merged_adam', 'merged_momentum'),
                    "the optimiser's update"),
    'loader': 'waiting for images',
    'loading images': 'loading images in this process',
    'normalising': 'normalising and erasing images',
    'clipping': 'clipping of gradients',
    'moving average': 'the moving average of the weights',
    'interpreter_core_run': 'the graph (TRAIN.TO_STATIC)',  # its operators run in other threads
    'checkpoint': 'writing checkpoints',
}
DURATION = re.compile(r'\[[^\[\]]*\]$')  # ends each name: 'matmul dygraph[12.138 us]'
PY_LAYER = re.compile(r'(?:Global_)?GradNodePyLayer_(\w+?)(?:_backward)?')
GRAD_NODE = re.compile(r'(?:Global_)?(?:GradNode(Accumulation)|(\w+?)GradNode\w*)')
OPERATOR = re.compile(r'(\w+?)(?:_double|_triple)?(?:_grad|_gradient)?_? '
                      r'(?:dygraph|kernel|kernel launch|pybind_imperative_func)')
OWN = 'PythonUserDefined'  # the category of RecordEvents


class Costs:
    """Adds up what the steps of traces take.

    Attributes:
        total: microseconds of all steps.
        phases: of each of PHASES.
        words: of each text of WORDS, and of each operator that is not in it by its own name.
    """

    def __init__(self):
        self.total, self.phases, self.words = 0.0, Counter(), Counter()

    def add(self, events):
        """Adds the events of a trace, as Paddle's profiler writes them."""
        spans = [event for event in events if event.get('ph') == 'X']
        threads = {thread_of(span) for span in spans if span['cat'] == 'ProfileStep'}
        spans = [span for span in spans if thread_of(span) in threads]
        spans.sort(key=lambda span: (start_of(span), -span['dur']))
        outer = []  # (end, text, whether it holds for all within) of the spans around this one
        for span in spans:
            start, duration = start_of(span), span['dur']
            while outer and outer[-1][0] <= start:
                outer.pop()
            if not outer and span['cat'] != 'ProfileStep':
                continue  # between two steps
            name = DURATION.sub('', span['name'])
            if span['cat'] == 'ProfileStep':
                self.total += duration
            elif name in PHASES and span['cat'] == OWN:  # Paddle has a span `backward`, too
                self.phases[name] += duration
            around = outer[-1][1:] if outer else (PYTHON, False)
            text, holds = around if around[1] else text_of(name, span['cat'], around[0])
            if outer:
                self.words[outer[-1][1]] -= duration
            self.words[text] += duration
            outer.append((start + duration, text, holds))

    def lines(self, largest=5):
        """The phases, and the largest costs, each with its share of the steps' time."""
        total = max(self.total, 1e-9)
        phases = {name: self.phases[name] for name in PHASES}
        phases['the rest'] = self.total - sum(phases.values())
        return [', '.join(f'{text} {cost / total:.0%}' for text, cost in costs)
                for costs in (phases.items(), self.words.most_common(largest))]


def thread_of(span):
    """'9243' of '9243(Python)' and of '9243(C++)', which are one thread."""
    return str(span['tid']).partition('(')[0]


def start_of(span):
    """Microseconds since the start of the trace; `ts` is cut to whole ones."""
    return float(span['args']['start_time'].split()[0])


def text_of(name, category, around):
    """(what a span counts for, whether all within it does, too).

    Args:
        name: without the duration.
        category: Paddle's.
        around: what the span around it counts for.
    """
    if category in ('Forward', OWN, 'UserDefined') and name in WORDS:
        return WORDS[name], name not in PHASES
    if match := PY_LAYER.fullmatch(name):
        return WORDS.get(match[1], PYTHON), match[1] in WORDS
    if match := GRAD_NODE.fullmatch(name):
        operator = snake_case(match[1] or match[2])
    elif match := OPERATOR.fullmatch(name):
        operator = match[1]
    else:  # a part of an operator, or Python
        return (around if category == 'OperatorInner' else PYTHON), False
    return WORDS.get(operator, operator), False


def snake_case(name):
    """'cross_entropy_with_softmax' of 'CrossEntropyWithSoftmax'."""
    return re.sub(r'(?<!^)(?=[A-Z])', '_', name).lower()
