"""The one error for an official checkpoint that cannot be had or read."""


class CheckpointError(ValueError):
    """A checkpoint that is missing, broken or hostile. The message names the file, what is wrong and what to do."""
