"""-profile N: a Chrome trace of N training steps by Paddle's profiler, and what they cost."""
import contextlib
import json
import os

from paddle.profiler import Profiler, ProfilerTarget

from common.core import dist
from common.core.files import replace_atomically
from common.train.costs import Costs

PROFILE = 'profile.json'  # in the run's folder
WARM_UP = 3  # steps before, in which memory is taken and kernels are built


class StepProfile:
    """Records training steps on rank 0; on others, and if none are asked for, it does nothing.

    Nothing is recorded between two epochs, so that evaluations are not in the file. A file that
    cannot be written is a warning, and the run goes on.

    Args:
        steps: how many are recorded at most; None or 0 for none.
        folder: the run's, or None.
        log: RunLog.
        device: 'cpu' or 'gpu'.
    """

    def __init__(self, steps=None, folder=None, log=None, device='cpu'):
        self.left = steps or 0 if folder and dist.is_master() else 0
        self.folder, self.log, self.device = folder, log, device
        self.asked, self.recorded, self.waits = self.left, 0, None
        self.profiler, self.events, self.costs = None, [], Costs()

    def begin_epoch(self, steps):
        """Precedes an epoch's steps.

        Args:
            steps: how many the run has left, in all epochs.
        """
        if self.waits is None:
            self.waits = max(0, min(WARM_UP, steps - self.left))
            if self.left:
                ranks = f' of process 0 of {dist.world_size()}' if dist.world_size() > 1 else ''
                self.log.info(f'-profile: {min(self.left, steps)} steps{ranks} are recorded after '
                              f'{self.waits} others')
        self.start()

    def start(self):
        """Begins to record, if it is time to."""
        if self.left and not self.waits:
            targets = [ProfilerTarget.CPU] + [ProfilerTarget.GPU] * (self.device == 'gpu')
            # Without a function for the end Paddle writes into the working folder.
            self.profiler = Profiler(targets=targets, on_trace_ready=self.take)
            self.profiler.step_num = self.recorded
            self.profiler.start()

    def step_done(self, last):
        """Follows each step.

        Args:
            last: whether others than training steps follow it: the epoch's end, a signal.
        """
        if self.profiler:
            self.recorded += 1
            self.left -= 1
            if last or not self.left:
                self.stop()
            else:
                self.profiler.step()
        elif self.waits:
            self.waits -= 1
            if not last:
                self.start()
        if self.recorded and not self.left and self.events:
            self.write()

    def stop(self):
        """Ends recording for now."""
        profiler, self.profiler = self.profiler, None
        profiler.stop()

    def take(self, profiler):
        """Takes what was recorded, by way of a file, since Paddle gives it in no other way."""
        file = os.path.join(self.folder, f'{PROFILE}.part.tmp{os.getpid()}')  # swept, if it stays
        try:
            profiler.export(file, 'json')
            with open(file, errors='replace') as stream:
                events = [event for event in json.load(stream)['traceEvents'] if event]
            self.costs.add(events)
            self.events += events
        except (OSError, ValueError) as error:
            self.log.warning(f'-profile: a part of the trace is missing: cannot write and read '
                             f'{file}: {getattr(error, "strerror", None) or error}')
        with contextlib.suppress(FileNotFoundError):
            os.remove(file)

    def close(self):
        """Follows the run, however it ends: writes what there is."""
        if self.profiler:
            self.stop()
        if self.recorded and self.events:
            self.write()

    def write(self):
        """Writes the file, and says what the steps cost."""
        file = os.path.join(self.folder, PROFILE)
        events, self.events, self.left = self.events, [], 0
        try:
            with replace_atomically(file) as temporary, open(temporary, 'w') as stream:
                json.dump({'displayTimeUnit': 'ms', 'traceEvents': events}, stream)
        except OSError as error:
            self.log.warning(f'-profile: cannot write {file}: {error.strerror}')
            return
        few = f' of the {self.asked} that were asked for' if self.recorded < self.asked else ''
        milliseconds = self.costs.total / 1000 / max(self.recorded, 1)
        self.log.info(f'-profile: {self.recorded} steps{few} are in {file}, '
                      f'{milliseconds:.1f} ms each')
        if self.device == 'gpu':
            self.log.info('  the shares are those of this process, which waits for the GPU now and '
                          'then; what runs on the GPU is in the file')
        for line in self.costs.lines():
            self.log.info(f'  {line}')
