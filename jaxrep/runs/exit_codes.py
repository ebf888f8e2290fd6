"""Define the exit statuses of a training process, for scripts and schedulers."""

import enum


class ExitCode(enum.IntEnum):
    """Exit status of a training process."""

    DONE = 0
    """The run is at its end, evaluated."""
    FAILED = 1
    """Something went wrong; the message says what."""
    USAGE = 2
    """The command, the experiment or the recipe is wrong: nothing was trained, and trying again is of no use."""
    DIVERGED = 3
    """Losses or gradients stayed not finite: the same run would end so again."""
    PREEMPTED = 75
    """A signal ended the run; it is saved, and the same command goes on: EX_TEMPFAIL of sysexits.h, so requeue."""
