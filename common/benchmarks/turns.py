"""Processes that take turns: each runs its step when it is asked to, and waits while others do."""
import contextlib
import json
import statistics
import subprocess
import tempfile
import threading
import time

from common.core.errors import one_line, printable
from common.core.processes import end_of

LIMIT = 900       # seconds for a start, which may compile, or for a turn
PAUSE = 0.25      # threads of OpenMP go on for some time after their work
LEAST = 0.5       # seconds of a turn
END = 10          # seconds for the end


class Contender:
    """A child process that speaks the protocol of benchmarks/foreign.py.

    Args:
        title: of its row.
        command: list of arguments that start it, or None for what cannot be started.
        env: the environment, or None for this process's.
        missing: why it cannot be started.

    Attributes:
        missing: why there are no figures, a text; or None.
        versions, parameters: what the child said of itself.
        seconds: of a step, one for each turn.
        peak_mb: the most memory that the process has had.
    """

    def __init__(self, title, command, env=None, missing=None):
        self.title, self.command, self.env, self.missing = title, command, env, missing
        self.versions, self.parameters, self.peak_mb, self.seconds = None, None, None, []
        self.process = None

    def start(self):
        """Starts the process, and waits until it has done its first step."""
        if self.missing:
            return
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
        self.process = subprocess.Popen(self.command, env=self.env, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.errors)
        first = self.read()
        if first:
            self.missing = first.get('missing')
            self.versions, self.parameters = first.get('versions'), first.get('parameters')

    def turn(self, least=LEAST):
        """Runs steps for `least` seconds."""
        if self.missing:
            return
        with contextlib.suppress(OSError):  # it has ended, which `read` says
            self.process.stdin.write(f'{json.dumps({"seconds": least})}\n'.encode())
            self.process.stdin.flush()
        found = self.read()
        if found:
            self.seconds.append(found['seconds'])
            self.peak_mb = found['peak_mb']

    def read(self):
        """The next line as a dict, or None where the process has failed."""
        late = threading.Timer(LIMIT, self.process.kill)
        late.start()
        try:
            line = self.process.stdout.readline()
        finally:
            late.cancel()
        with contextlib.suppress(ValueError):
            return json.loads(line)
        code = self.process.wait()
        self.errors.seek(0)
        text = self.errors.read().decode(errors='replace').strip().splitlines()
        why = f': {one_line(text[-1])}' if text else ''
        self.missing = printable(f'the process ended with {end_of(code)}{why}')
        return None

    def stop(self):
        """Ends the process."""
        if self.process is None:
            return
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            with contextlib.suppress(OSError):
                stream.close()
        try:
            self.process.wait(END)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


def take_turns(contenders, rounds, least=LEAST):
    """Starts them one after the other, lets them take turns, and ends them.

    Every other round goes backwards, so that nobody always comes after the same one.
    """
    try:
        for contender in contenders:
            contender.start()
        for number in range(rounds):
            for contender in contenders[::-1 if number % 2 else 1]:
                if not contender.missing:
                    time.sleep(PAUSE)
                    contender.turn(least)
    finally:
        for contender in contenders:
            contender.stop()


def ratios(reference, seconds):
    """(median, smallest, largest) of how many times as fast as the reference, round by round."""
    found = [first / second for first, second in zip(reference, seconds, strict=True)]
    return statistics.median(found), min(found), max(found)
