"""An executor for sweeps of tests."""

from prunekit.sweep.workers import TaskOutcome


class Inline:
    """An executor in this process, which has imported torch already."""

    def __init__(self):
        self.ended = []

    @property
    def room(self):
        return 1 - len(self.ended)

    @property
    def busy(self):
        return len(self.ended)

    def submit(self, task):
        self.ended.append(TaskOutcome(task, task.call(*task.arguments)))

    def finished(self, timeout):
        ended, self.ended = self.ended, []
        return ended

    def stop(self):
        """Nothing is at work."""
