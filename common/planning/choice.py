"""The settings with which a run fits: the first that serves, in the order of what they cost.

| TRAIN.SHARDING | TRAIN.RECOMPUTE | costs                                                         |
|----------------|-----------------|---------------------------------------------------------------|
| 0              | False           | nothing                                                       |
| 1              | False           | each rank sends the weights that it has updated               |
| 0, then 1      | True            | the forward pass again: a quarter to a third of the time      |
| 2, then 3      | False, True     | gradients are sent one by one, in each micro-batch; at 3 the  |
|                |                 | weights too, in each pass. Compared with plain training on    |
|                |                 | CPUs only, so that they come last                             |

What serves is a micro-batch of the whole share of a device in the global batch, or of ENOUGH
images. Where none serves, the one with the largest micro-batch is taken.
"""
import dataclasses

from common.planning.budget import Budget, Setting

ENOUGH = 16  # images of a micro-batch, with which a device is taken for busy; a rule of thumb
# A micro-batch that makes the exact global batch is taken down to this share of the largest.
EXACT_SHARE = 0.5
ORDER = ((0, False), (1, False), (0, True), (1, True), (2, False), (2, True), (3, False), (3, True))
MOST_SHARDING = 3


@dataclasses.dataclass(frozen=True)
class Choice:
    """Settings, and what they give.

    Attributes:
        setting: Setting.
        largest: the largest micro-batch that fits.
        batch: the micro-batch, 0 if nothing fits.
        total: bytes of tensors on a device with it, or with one image if nothing fits.
    """
    setting: Setting
    largest: int
    batch: int
    total: float

    @property
    def global_batch(self):
        return self.batch * self.setting.devices * self.setting.accum_iter


def split_batch(each: int, largest: int) -> tuple[int, int]:
    """Splits a device's share of the global batch into equal micro-batches.

    Args:
        each: images of the share.
        largest: images that fit at once, at least 1.

    Returns:
        (micro-batch, how many): their product is `each`, or the least number above it that has no
        micro-batch below half of what fits.
    """
    exact = max(number for number in range(1, min(largest, each) + 1) if each % number == 0)
    if exact >= EXACT_SHARE * min(largest, each):
        return exact, each // exact
    count = -(-each // largest)
    return -(-each // count), count


def choose(budget: Budget, memory: float, devices: int, global_batch: int,
           batch: int | None = None, most_sharding: int = MOST_SHARDING) -> list[Choice]:
    """Compares the settings for a run.

    Args:
        budget: of the model.
        memory: bytes of a device for tensors.
        devices: ranks.
        global_batch: images of an optimiser step.
        batch: the micro-batch that the user asks for; None is the best one.
        most_sharding: the highest stage of TRAIN.SHARDING that is compared.

    Returns:
        The Choices, in the order of what they cost.
    """
    return [of_setting(budget, memory, Setting(devices, recompute, sharding), global_batch, batch)
            for sharding, recompute in ORDER
            if sharding <= (most_sharding if devices > 1 else 0)]


def of_setting(budget, memory, setting, global_batch, batch):
    """The Choice of a Setting, whose accum_iter is found here."""
    each = max(round(global_batch / setting.devices), 1)
    largest = budget.largest_batch(memory, setting)
    if min(largest, batch or largest) < each:  # the gradients of a micro-batch are there, too
        setting = dataclasses.replace(setting, accum_iter=2)
        largest = budget.largest_batch(memory, setting)
    if not largest or batch and batch > largest:
        return Choice(setting, largest, 0, budget.total(batch or 1, setting))
    size, count = (batch, -(-each // batch)) if batch else split_batch(each, largest)
    setting = dataclasses.replace(setting, accum_iter=count)
    return Choice(setting, largest, size, budget.total(size, setting))


def best_of(choices: list[Choice], global_batch: int) -> Choice | None:
    """The one to run; None if nothing fits. See the table above."""
    fitting = [choice for choice in choices if choice.batch]
    for choice in fitting:
        if choice.batch >= min(ENOUGH, global_batch // choice.setting.devices):
            return choice
    return max(fitting, key=lambda choice: choice.batch, default=None)
